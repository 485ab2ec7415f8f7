//! The enum of the events that an aggregate applies or a projection reads.

use proc_macro2::TokenStream;
use syn::{Ident, Type};

use crate::paths::emit;

/// One variant: its name and its event.
pub(crate) type Variant<'a> = (&'a Ident, &'a Type);

/// ```text
/// impl From<Opened> for AccountEvent {
///     fn from(event: Opened) -> Self { Self::Opened(event) }
/// }
/// …
/// impl __cqrs::EventSet for AccountEvent {
///     const TYPES: &'static [__cqrs::EventType<Self>] = &[<Opened as __cqrs::InSet<Self>>::TYPE, …];
///     fn encode(&self) -> __cqrs::Bytes {
///         match self { Self::Opened(event) => <Opened as __cqrs::InSet<Self>>::encode(event), … }
///     }
/// }
/// ```
pub(crate) fn expand(set: &Ident, variants: &[Variant<'_>]) -> TokenStream {
    let from = variants.iter().map(|(variant, event)| {
        emit! {
            #[automatically_derived]
            impl ::core::convert::From<#event> for #set {
                fn from(__event: #event) -> Self {
                    Self::#variant(__event)
                }
            }
        }
    });
    let types = variants.iter().map(|(_, event)| emit!(<#event as __cqrs::InSet<Self>>::TYPE));
    let encode = variants
        .iter()
        .map(|(variant, event)| emit!(Self::#variant(__event) => <#event as __cqrs::InSet<Self>>::encode(__event),));
    let this = if variants.is_empty() { emit!(*self) } else { emit!(self) };
    emit! {
        #(#from)*
        #[automatically_derived]
        impl ::core::fmt::Debug for #set {
            fn fmt(&self, __f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                __cqrs::debug(self, __f)
            }
        }
        #[automatically_derived]
        impl __cqrs::EventSet for #set {
            const TYPES: &'static [__cqrs::EventType<Self>] = &[#(#types),*];
            fn encode(&self) -> __cqrs::EncodeResult {
                match #this { #(#encode)* }
            }
        }
    }
}
