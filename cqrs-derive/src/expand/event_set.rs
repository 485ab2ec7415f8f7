//! The enum of the events that an aggregate applies or a projection reads.

use proc_macro2::TokenStream;
use syn::spanned::Spanned as _;
use syn::{Ident, Type};

use crate::attr::spelled;
use crate::check::type_ident;
use crate::model::plain;
use crate::paths::{braced, emit, emit_as};

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
pub(crate) fn expand(set: &Ident, variants: &[Variant<'_>], owner: &Type) -> TokenStream {
    let distinct = distinct_names(set, variants, owner);
    let from = variants.iter().map(|(variant, event)| {
        // Twice the same event, once under an alias, shows at the second.
        let from = emit_as!(event.span() => impl ::core::convert::From<#event> for #set);
        let body = emit! {
            fn from(__event: #event) -> Self {
                Self::#variant(__event)
            }
        };
        let body = braced(event.span(), body);
        emit! {
            #[automatically_derived]
            #from #body
        }
    });
    let types = variants.iter().map(|(_, event)| emit!(<#event as __cqrs::InSet<Self>>::TYPE));
    let encode = variants
        .iter()
        .map(|(variant, event)| emit!(Self::#variant(__event) => <#event as __cqrs::InSet<Self>>::encode(__event),));
    let this = if variants.is_empty() { emit!(*self) } else { emit!(self) };
    emit! {
        #distinct
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

/// `const _: () = __cqrs::ensure(__cqrs::is_new(TYPES, 1), "…");`, at the event.
fn distinct_names(set: &Ident, variants: &[Variant<'_>], owner: &Type) -> TokenStream {
    let owner = plain(&type_ident(owner));
    let check = |(index, (_, event)): (usize, &Variant<'_>)| {
        let text = format!(
            "`{}` is stored under the same name as another event of `{owner}`: give one of them `#[event(name = \"…\")]`",
            spelled(event),
        );
        let is_new = emit!(__cqrs::is_new(<#set as __cqrs::EventSet>::TYPES, #index));
        emit_as!(event.span() => const _: () = __cqrs::ensure(#is_new, #text);)
    };
    variants.iter().enumerate().skip(1).map(check).collect()
}
