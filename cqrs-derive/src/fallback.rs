//! What is emitted beside the mistakes, so that nothing else breaks on account of them.
//!
//! An aggregate or a projection with mistakes is expanded as far as it goes, see `broken` in their
//! models; here is the rest.

use proc_macro2::TokenStream;
use quote::ToTokens as _;
use syn::{Data, DeriveInput, FnArg, Generics, Ident, ImplItem, ItemImpl, Meta, Type};

use crate::attr;
use crate::check;
use crate::expand;
use crate::model::aggregate::Aggregate;
use crate::model::command::Command;
use crate::model::event::Event;
use crate::model::plain;
use crate::paths::{Krate, emit, sealed};

/// An event that is stored as JSON and has no past.
pub(crate) fn event(input: &DeriveInput, event: &Event<'_>) -> TokenStream {
    if matches!(input.data, Data::Union(_)) {
        return TokenStream::new();
    }
    let Event { ident, name, version, .. } = event;
    let (params, arguments, _) = event.generics.split_for_impl();
    if !check::borrowed_fields(input).is_empty() {
        return unreadable(&event.krate, ident, name, *version);
    }
    let this = Some(event).filter(|event| !event.generics.params.is_empty());
    let bounds = this
        .map(|_| emit!(where Self: __cqrs::Storable + ::core::marker::Send + ::core::marker::Sync + 'static));
    sealed(
        &event.krate,
        &emit! {
            impl #params __cqrs::Event for #ident #arguments #bounds {
                const NAME: &'static ::core::primitive::str = #name;
                const VERSION: ::core::primitive::u32 = #version;
                type Codec = __cqrs::Json;
            }
        },
    )
}

/// It cannot be read back, so it cannot be an event; but sets may have it.
fn unreadable(krate: &Krate, ident: &Ident, name: &str, version: u32) -> TokenStream {
    sealed(
        krate,
        &emit! {
            impl<__S> __cqrs::InSet<__S> for #ident {
                const TYPE: __cqrs::EventType<__S> = __cqrs::unreadable(#name, #version);
                fn encode(&self) -> __cqrs::EncodeResult {
                    ::core::unreachable!()
                }
            }
        },
    )
}

/// A half-typed event.
pub(crate) fn unread_event(ident: &Ident) -> TokenStream {
    unreadable(&Krate::default(), ident, &plain(ident), 1)
}

/// A half-typed command.
pub(crate) fn unread_command(ident: &Ident) -> TokenStream {
    stand_in(&Krate::default(), ident, &plain(ident), &Generics::default(), &TokenStream::new())
}

/// A command whose id has the type that its aggregate expects.
pub(crate) fn command(input: &DeriveInput, command: &Command<'_>) -> TokenStream {
    let Command { ident, name, .. } = command;
    if matches!(input.data, Data::Union(_)) || command.generics.lifetimes().next().is_some() {
        return TokenStream::new();
    }
    let (generics, arguments) = expand::command::bounded(command, false);
    stand_in(&command.krate, ident, name, &generics, &arguments)
}

fn stand_in(
    krate: &Krate,
    ident: &Ident,
    name: &str,
    generics: &Generics,
    arguments: &TokenStream,
) -> TokenStream {
    let (params, _, bounds) = generics.split_for_impl();
    sealed(
        krate,
        &emit! {
            impl #params __cqrs::Command for #ident #arguments #bounds {
                type Id = <<Self as __cqrs::HandledByOneAggregate>::Aggregate as __cqrs::Aggregate>::Id;
                type Aggregate = <Self as __cqrs::HandledByOneAggregate>::Aggregate;
                type Shared = __cqrs::Sent<Self>;
                const NAME: &'static ::core::primitive::str = #name;
                fn id(&self) -> &Self::Id {
                    ::core::unreachable!()
                }
                fn duplicate(&self) -> Self {
                    ::core::unreachable!()
                }
            }
        },
    )
}

/// An aggregate that cannot be one at all: its commands are handled all the same.
pub(crate) fn aggregate(model: &Aggregate<'_>) -> TokenStream {
    let links = model.handlers.iter().map(|handler| {
        let command = handler.command;
        emit!(impl __cqrs::HandledByOneAggregate for #command { type Aggregate = __cqrs::Unknown; })
    });
    sealed(&model.krate, &links.collect())
}

/// The user's block without our attributes; what only our shapes ask for is not linted.
pub(crate) fn stripped(mut block: ItemImpl, ours: &[&str], empty: &[Ident]) -> TokenStream {
    for item in &mut block.items {
        let ImplItem::Fn(method) = item else { continue };
        if empty.contains(&method.sig.ident) {
            method.attrs.push(syn::parse_quote!(#[allow(unused_variables, reason = "left out")]));
            method.block.stmts = vec![syn::parse_quote!(::core::unreachable!();)];
            // Nor is it reported that there is no such trait object.
            for param in &mut method.sig.inputs {
                if let FnArg::Typed(param) = param
                    && let Type::Reference(reference) = &mut *param.ty
                    && matches!(&*reference.elem, Type::TraitObject(_))
                {
                    reference.elem = syn::parse_quote!(());
                }
            }
        }
        let before = method.attrs.len();
        // A parameter may be there for the key alone.
        if method.attrs.iter().any(|attr| attr::is_ours(attr, ours) && matches!(attr.meta, Meta::List(_))) {
            for param in &mut method.sig.inputs {
                if let FnArg::Typed(param) = param {
                    param.attrs.push(syn::parse_quote!(#[allow(unused_variables, reason = "for the key")]));
                }
            }
        }
        method.attrs.retain(|attr| !attr::is_ours(attr, ours));
        if method.attrs.len() < before {
            method.attrs.push(syn::parse_quote! {
                #[allow(
                    clippy::needless_pass_by_value,
                    clippy::trivially_copy_pass_by_ref,
                    clippy::unnecessary_wraps,
                    clippy::unused_async,
                    clippy::unused_self,
                    reason = "the signature says what the handler or the fold is for"
                )]
            });
        }
    }
    block.to_token_stream()
}
