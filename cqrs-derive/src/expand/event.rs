//! `#[derive(Event)]`.

use proc_macro2::TokenStream;

use crate::attr::spelled;
use crate::model::event::{Event, Tag};
use crate::model::plain;
use crate::paths::{emit, emit_as, sealed};

/// ```text
/// const _: () = {
///     use ::cqrs::__private as __cqrs;
///     impl __cqrs::Event for Opened {
///         const NAME: &'static str = "Opened";
///         const VERSION: u32 = 1;
///         type Codec = __cqrs::Json;
///     }
/// };
/// ```
pub(crate) fn expand(event: &Event<'_>) -> TokenStream {
    let Event { ident, name, version, .. } = event;
    let codec = event.codec.as_ref().map_or_else(|| emit!(__cqrs::Json), quote::ToTokens::to_token_stream);
    let tags = tags(&event.tags);
    let former = former(event);
    let upcast = upcast(event);
    let upcast_bytes = upcast_bytes(event);
    sealed(
        &event.krate,
        &emit! {
            #former
            #[automatically_derived]
            impl __cqrs::Event for #ident {
                const NAME: &'static ::core::primitive::str = #name;
                const VERSION: ::core::primitive::u32 = #version;
                type Codec = #codec;
                #tags
                #upcast
                #upcast_bytes
            }
        },
    )
}

/// ```text
/// fn tags(&self, tags: &mut __cqrs::Tags) {
///     <CourseId as __cqrs::TagValue<_>>::tag(&self.course, "course", tags);
/// }
/// ```
fn tags(tags: &[Tag<'_>]) -> Option<TokenStream> {
    let add = |Tag { member, name, ty }: &Tag<'_>| emit!(<#ty as __cqrs::TagValue<_>>::tag(&self.#member, #name, __tags););
    let add = tags.iter().map(add);
    (!tags.is_empty()).then(|| {
        emit! {
            fn tags(&self, __tags: &mut __cqrs::Tags) {
                #(#add)*
            }
        }
    })
}

/// ```text
/// const __FORMER: &[__cqrs::Former<Opened>] = &[__cqrs::from::<OpenedV1, Opened>()];
/// const _: () = __cqrs::ensure(__FORMER[0].is_version_before(), "…");
/// ```
fn former(event: &Event<'_>) -> Option<TokenStream> {
    let ident = event.ident;
    if event.from.is_none() && event.replaces.is_empty() {
        return None;
    }
    let from = event.from.iter().map(|old| emit!(__cqrs::from::<#old, #ident>()));
    let replaces = event.replaces.iter().map(|old| emit!(__cqrs::replaces::<#old, #ident>()));
    let check = hop(event);
    Some(emit! {
        const __FORMER: &[__cqrs::Former<#ident>] = &[#(#from,)* #(#replaces,)*];
        #check
    })
}

/// The way from the version before: `from` is one, or else one of `replaces`.
fn hop(event: &Event<'_>) -> Option<TokenStream> {
    let name = plain(event.ident);
    let version = event.version;
    if let Some(old) = &event.from {
        let text = format!(
            "`{}` is not version {} of `{name}`: a former type has the same `name` and the version before",
            spelled(old),
            version.saturating_sub(1),
        );
        let span = syn::spanned::Spanned::span(old);
        return Some(emit_as!(span => const _: () = __cqrs::ensure(__FORMER[0].is_version_before(), #text);));
    }
    if version == 1 || event.upcast.is_some() || event.upcast_bytes.is_some() {
        return None;
    }
    let text = format!(
        "version {version} of `{name}` has no way from version {}: none of the types it `replaces` is that one; add `from = …`",
        version - 1
    );
    Some(
        emit_as!(event.version_span() => const _: () = __cqrs::ensure(__cqrs::has_version_before(__FORMER), #text);),
    )
}

/// ```text
/// fn upcast(stored: &__cqrs::Stored<'_>, out: __cqrs::Out<'_, Self>) -> __cqrs::Known {
///     __cqrs::upcast(__FORMER, stored, out)
/// }
/// fn former(shapes: &mut __cqrs::Shapes) {
///     __cqrs::former(__FORMER, shapes);
/// }
/// ```
fn upcast(event: &Event<'_>) -> Option<TokenStream> {
    let has_former = event.from.is_some() || !event.replaces.is_empty();
    let steps = event.steps();
    let raw = (!steps.is_empty()).then(|| emit!(__cqrs::upcast_raw(&[#(#steps),*], __stored, __out)));
    let raw_shapes = (!steps.is_empty()).then(|| emit!(__cqrs::former_raw::<Self>(__shapes);));
    let typed = has_former.then(|| emit!(__cqrs::upcast(__FORMER, __stored, __out)));
    let typed_shapes = has_former.then(|| emit!(__cqrs::former(__FORMER, __shapes);));
    let body = match (typed, raw) {
        (Some(typed), Some(raw)) => Some(emit!(__cqrs::either(#typed, || #raw))),
        (one, other) => one.or(other),
    };
    let upcast = body.map(|body| {
        emit! {
            fn upcast(__stored: &__cqrs::Stored<'_>, __out: __cqrs::Out<'_, Self>) -> __cqrs::Known {
                #body
            }
        }
    });
    let bytes_shapes = event.upcast_bytes.is_some() && steps.is_empty();
    let bytes_shapes = bytes_shapes.then(|| emit!(__cqrs::former_raw::<Self>(__shapes);));
    if upcast.is_none() && bytes_shapes.is_none() {
        return None;
    }
    Some(emit! {
        #upcast
        fn former(__shapes: &mut __cqrs::Shapes) {
            #typed_shapes
            #raw_shapes
            #bytes_shapes
        }
    })
}

/// ```text
/// fn upcast_bytes(version: u32, payload: &[u8]) -> Option<Vec<u8>> {
///     __cqrs::upcast_bytes(repair, version, payload)
/// }
/// ```
fn upcast_bytes(event: &Event<'_>) -> Option<TokenStream> {
    let function = event.upcast_bytes.as_ref()?;
    Some(emit! {
        fn upcast_bytes(
            __version: ::core::primitive::u32,
            __payload: &[::core::primitive::u8],
        ) -> ::core::option::Option<::std::vec::Vec<::core::primitive::u8>> {
            __cqrs::upcast_bytes(#function, __version, __payload)
        }
    })
}
