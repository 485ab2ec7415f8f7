//! Collects every mistake of an item, so that all are reported at once and each of them once.

use std::cell::RefCell;
use std::fmt::Display;

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;

/// The mistakes found so far. Readers report here and go on; nobody returns early.
#[derive(Default)]
pub(crate) struct Errors(RefCell<Vec<syn::Error>>);

impl Errors {
    /// A mistake in these tokens.
    pub(crate) fn at(&self, tokens: impl ToTokens, message: impl Display) {
        self.push(syn::Error::new_spanned(tokens, message));
    }

    /// A mistake at this place.
    pub(crate) fn here(&self, span: Span, message: impl Display) {
        self.push(syn::Error::new(span, message));
    }

    /// What a parser has found.
    pub(crate) fn push(&self, error: syn::Error) {
        self.0.borrow_mut().push(error);
    }

    /// How many there are by now: a reader compares before and after.
    pub(crate) fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// The `compile_error!`s, or nothing if all is well.
    pub(crate) fn into_tokens(self) -> Option<TokenStream> {
        let all = self.0.into_inner();
        if all.is_empty() { None } else { Some(all.iter().map(syn::Error::to_compile_error).collect()) }
    }
}
