//! `#[projection(sql = …)]`.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens as _, format_ident};
use syn::spanned::Spanned as _;
use syn::{Ident, PatType, Type};

use super::event_set;
use crate::block;
use crate::model::sql::{Setup, SqlProjection, Writes};
use crate::paths::{at, emit, emit_as, emit_at, sealed};

/// ```text
/// const _: () = {
///     use ::cqrs::__private as __cqrs;
///     pub enum __Events { __0(Opened), __1(Deposited) }
///     …
///     impl __cqrs::SqlProjection for Ledger {
///         type Database = Sqlite;
///         type Event = __Events;
///         const NAME: &'static str = "ledger";
///         const MODE: Mode = Mode::Async;
///         fn set_up(tx) { __cqrs::ready::<Sqlite>(Self::tables(tx)) }
///         fn handle(tx, event, meta) {
///             match event { __Events::__0(event) => __cqrs::ready::<Sqlite>(Self::opened(tx, event)), … }
///         }
///     }
/// };
/// ```
pub(crate) fn expand(model: &SqlProjection<'_>) -> TokenStream {
    let SqlProjection { ty, name, database, .. } = model;
    let set = Ident::new("__Events", Span::mixed_site());
    let names: Vec<Ident> = (0..model.handlers.len())
        .map(|index| format_ident!("__{index}", span = Span::mixed_site()))
        .collect();
    let variants: Vec<_> =
        names.iter().zip(&model.handlers).map(|(name, writes)| (name, writes.event)).collect();
    let events = variants.iter().map(|(name, event)| emit!(#name(#event)));
    let impls = event_set::expand(&set, &variants, ty);
    let arms = names.iter().zip(&model.handlers).map(|(name, writes)| {
        let run = handle(writes, model);
        emit!(#set::#name(__event) => #run,)
    });
    let this = if variants.is_empty() { emit!(*__event) } else { emit!(__event) };
    let set_up = match &model.setup {
        None => emit!(__cqrs::ready::<#database>(())),
        Some(Setup { method, transaction, returns, is_async }) => {
            let transaction = argument(transaction, "__tx");
            running(model, *is_async, *returns, method, &transaction)
        }
    };
    let mode = super::mode(model.mode);
    let event = emit_as!(ty.span() => type Event = #set;);
    let fold = model.fold;
    let registration = super::registration(ty, "sql_projection");
    sealed(
        &model.krate,
        &emit! {
            #[allow(missing_docs, missing_debug_implementations, private_interfaces, unreachable_pub, dead_code, reason = "generated")]
            #[doc(hidden)]
            pub enum #set { #(#events),* }
            #impls
            #[automatically_derived]
            impl __cqrs::SqlProjection for #ty {
                type Database = #database;
                #event
                const NAME: &'static ::core::primitive::str = #name;
                const MODE: __cqrs::Mode = #mode;
                const FOLD: ::core::option::Option<::core::primitive::u64> = ::core::option::Option::Some(#fold);
                fn set_up<'a, 't>(__tx: &'a __cqrs::TransactionOf<'t, Self>) -> __cqrs::RunningOf<'a, Self>
                where
                    't: 'a,
                {
                    #set_up
                }
                fn handle<'a, 't>(
                    __tx: &'a __cqrs::TransactionOf<'t, Self>,
                    __event: &'a #set,
                    __meta: &'a __cqrs::EventMeta,
                ) -> __cqrs::RunningOf<'a, Self>
                where
                    't: 'a,
                {
                    match #this { #(#arms)* }
                }
            }
            #registration
        },
    )
}

fn handle(writes: &Writes<'_>, model: &SqlProjection<'_>) -> TokenStream {
    if writes.broken {
        return block::unread();
    }
    let transaction = argument(writes.transaction, "__tx");
    let meta = writes.meta.map(|meta| argument(meta, "__meta"));
    let arguments = emit!(#transaction, __event, #meta);
    running(model, writes.is_async, writes.returns, writes.method, &arguments)
}

/// An argument at its parameter, where a type that does not fit is shown.
fn argument(param: &PatType, name: &str) -> TokenStream {
    Ident::new(name, at(param.ty.span())).to_token_stream()
}

/// The call, at what the method returns: it is shown there if that does not fit.
fn running(
    model: &SqlProjection<'_>,
    is_async: bool,
    returns: Option<&Type>,
    method: &Ident,
    arguments: &TokenStream,
) -> TokenStream {
    let database = &model.database;
    let span = returns.map_or_else(|| method.span(), Type::span);
    let call = emit_at!(span => Self::#method(#arguments));
    if is_async {
        emit!(__cqrs::later::<#database, _>(#call))
    } else {
        emit!(__cqrs::ready::<#database>(#call))
    }
}
