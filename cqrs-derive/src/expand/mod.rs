//! From the model to tokens. Nothing here can fail.

pub(crate) mod aggregate;
pub(crate) mod command;
pub(crate) mod event;
pub(crate) mod event_set;
pub(crate) mod projection;
pub(crate) mod sql;

use proc_macro2::{Span, TokenStream};
use syn::spanned::Spanned as _;
use syn::{Ident, Type};

use crate::attr::Mode;
use crate::model::method::Fold;
use crate::paths::{at, emit};

/// One arm of a fold: `__cqrs::creates(__state, || Self::opened(__event))`.
fn fold(fold: Fold, method: &Ident, arguments: &TokenStream) -> TokenStream {
    match fold {
        Fold::Creates => emit!(__cqrs::creates(__state, || Self::#method(#arguments))),
        Fold::Changes => emit!(__cqrs::changes(__state, |__it| Self::#method(__it, #arguments))),
        Fold::Consumes => emit!(__cqrs::consumes(__state, |__it| Self::#method(__it, #arguments))),
        Fold::MaybeShared => emit!(__cqrs::becomes(__state, |__it| Self::#method(__it.as_ref(), #arguments))),
        Fold::MaybeOwned => emit!(__cqrs::becomes(__state, |__it| Self::#method(__it.take(), #arguments))),
    }
}

/// The state before the first event.
///
/// ```text
/// fn initial() -> Option<Self> { None }
/// fn initial() -> Option<Self> { Some(<Account as __cqrs::InitialState>::initial()) }
/// ```
fn initial(this: &Type, is_created: bool, by: &TokenStream) -> TokenStream {
    let value = if is_created {
        emit!(::core::option::Option::None)
    } else {
        emit!(::core::option::Option::Some(<#this as __cqrs::#by>::initial()))
    };
    emit! {
        fn initial() -> ::core::option::Option<Self> {
            #value
        }
    }
}

/// When a read model is brought up to date.
fn mode(mode: Mode) -> TokenStream {
    match mode {
        Mode::Async => emit!(__cqrs::Mode::Async),
        Mode::Inline => emit!(__cqrs::Mode::Inline),
        Mode::Live => emit!(__cqrs::Mode::Live),
    }
}

/// ```text
/// impl __cqrs::Register for Account {
///     const REGISTRATION: __cqrs::Registration = __cqrs::Registration::aggregate::<Self>(…);
/// }
/// __cqrs::inventory::submit! { <Account as __cqrs::Register>::REGISTRATION }
/// ```
fn registration(this: &Type, kind: &str) -> TokenStream {
    let kind = Ident::new(kind, Span::mixed_site());
    let span = at(this.span());
    let place =
        quote::quote_spanned!(span=> __cqrs::Location { file: ::core::file!(), line: ::core::line!() });
    emit! {
        #[automatically_derived]
        impl __cqrs::Register for #this {
            const REGISTRATION: __cqrs::Registration = __cqrs::Registration::#kind::<Self>(#place);
        }
        __cqrs::inventory::submit! { <#this as __cqrs::Register>::REGISTRATION }
    }
}
