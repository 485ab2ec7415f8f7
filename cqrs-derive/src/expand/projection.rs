//! `#[projection]`.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident};
use syn::spanned::Spanned as _;
use syn::{Ident, PatType};

use super::event_set;
use crate::block;
use crate::model::projection::{On, Projection};
use crate::paths::{emit, emit_as, emit_at, sealed};

/// ```text
/// const _: () = {
///     use ::cqrs::__private as __cqrs;
///     pub enum __Events { __0(Opened), __1(Deposited) }
///     …
///     impl __cqrs::Projection for Summary {
///         type Key = AccountId;
///         type Event = __Events;
///         const NAME: &'static str = "account-summary";
///         const MODE: Mode = Mode::Async;
///         const BY_STREAM: bool = true;
///         fn initial() -> Option<Self> { None }
///         fn route(…) { match event { __Events::__0(_) => __cqrs::stream_key::<Self>(keys, meta), … } }
///         fn apply(…) { match event { __Events::__0(event) => __cqrs::creates(state, || Self::opened(event)), … } }
///     }
/// };
/// ```
pub(crate) fn expand(model: &Projection<'_>) -> TokenStream {
    let Projection { ty, name, .. } = model;
    let key = key(model);
    let set = Ident::new("__Events", Span::mixed_site());
    let names: Vec<Ident> =
        (0..model.folds.len()).map(|index| format_ident!("__{index}", span = Span::mixed_site())).collect();
    let variants: Vec<_> = names.iter().zip(&model.folds).map(|(name, on)| (name, on.event)).collect();
    let events = variants.iter().map(|(name, event)| emit!(#name(#event)));
    let impls = event_set::expand(&set, &variants, model.ty);
    let initial = super::initial(model.ty, model.is_created(), &emit!(InitialDocument));
    let routes = names.iter().zip(&model.folds).map(|(name, on)| route(&set, name, on, model));
    let folds = names.iter().zip(&model.folds).map(|(name, on)| {
        if on.broken {
            let unread = block::unread();
            return emit!(#set::#name(_) => #unread,);
        }
        let meta = on.meta.map(|meta| emit_at!(meta.ty.span() => , __meta));
        let fold = super::fold(on.fold, on.method, &emit!(__event #meta));
        emit!(#set::#name(__event) => #fold,)
    });
    let this = if variants.is_empty() { emit!(*__event) } else { emit!(__event) };
    let fold = model.fold;
    let registration = super::registration(model.ty, "projection");
    let mode = super::mode(model.mode);
    let keys = emit_as!(key.span() => type Key = #key;);
    let event = emit_as!(ty.span() => type Event = #set;);
    let by_stream = model.is_by_stream();
    let fold_in_memory = model.fold_in_memory.then(|| {
        emit!(
            const FOLD_IN_MEMORY: ::core::primitive::bool = true;
        )
    });
    sealed(
        &model.krate,
        &emit! {
            #[allow(missing_docs, missing_debug_implementations, private_interfaces, unreachable_pub, dead_code, reason = "generated")]
            #[doc(hidden)]
            pub enum #set { #(#events),* }
            #impls
            #[automatically_derived]
            impl __cqrs::Projection for #ty {
                #keys
                #event
                const NAME: &'static ::core::primitive::str = #name;
                const MODE: __cqrs::Mode = #mode;
                const BY_STREAM: ::core::primitive::bool = #by_stream;
                #fold_in_memory
                const FOLD: ::core::option::Option<::core::primitive::u64> = ::core::option::Option::Some(#fold);
                #initial
                fn route(__event: &#set, __meta: &__cqrs::EventMeta, __keys: &mut __cqrs::Keys<#key>) -> __cqrs::Routed {
                    match #this { #(#routes)* }
                }
                fn apply(__state: &mut ::core::option::Option<Self>, __event: &#set, __meta: &__cqrs::EventMeta) -> __cqrs::Fits {
                    match #this { #(#folds)* }
                }
            }
            #registration
        },
    )
}

/// ```text
/// __Events::__0(_) => __cqrs::stream_key::<Self>(keys, meta),
/// __Events::__1(event) => { let e: &Moved = event; __cqrs::IntoKeys::<AccountId>::into_keys(e.to, keys); Ok(()) }
/// ```
fn route(set: &Ident, name: &Ident, on: &On<'_>, model: &Projection<'_>) -> TokenStream {
    let Some(expr) = on.key.as_ref().filter(|_| model.key.is_some()) else {
        return emit!(#set::#name(_) => __cqrs::stream_key::<Self>(__keys, __meta),);
    };
    let On { event, event_pattern, .. } = on;
    let key = key(model);
    let meta = on.meta.map(|PatType { pat, .. }| emit!(let #pat: &__cqrs::EventMeta = __meta;));
    let add = emit_at!(expr.span() => __cqrs::IntoKeys::<#key>::into_keys(#expr, __keys));
    emit! {
        #[allow(unused_variables, reason = "the key may need only one of them")]
        #set::#name(__event) => {
            let #event_pattern: &#event = __event;
            #meta
            #add;
            ::core::result::Result::Ok(())
        }
    }
}

/// What names one document.
fn key(model: &Projection<'_>) -> TokenStream {
    model.key.as_ref().map_or_else(|| emit!(::std::string::String), ToTokens::to_token_stream)
}
