//! What is emitted beside the mistakes, so that nothing else breaks on account of them.

use proc_macro2::TokenStream;
use quote::ToTokens as _;
use syn::{ImplItem, ItemImpl};

use crate::attr::{self, names};

/// The user's block without our attributes.
pub(crate) fn stripped(mut block: ItemImpl, ours: &[&str]) -> TokenStream {
    for item in &mut block.items {
        if let ImplItem::Fn(method) = item {
            method.attrs.retain(|attr| {
                let is_ours = ours.iter().any(|name| attr.path().is_ident(name));
                !is_ours && !ours.iter().any(|name| attr::nearly(std::slice::from_ref(attr), name).is_some())
            });
        }
    }
    block.to_token_stream()
}

pub(crate) const MARKS: [&str; 3] = [names::HANDLE, names::APPLY, names::ON];
