//! Absolute paths for generated code, and the spans it carries.

use proc_macro2::{Delimiter, Group, Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{Ident, Path};

use crate::manifest;

/// `quote!` with the hygiene of `macro_rules!`: our local names and the user's never meet.
macro_rules! emit {
    ($($tokens:tt)*) => { ::quote::quote_spanned!(::proc_macro2::Span::mixed_site()=> $($tokens)*) };
}
pub(crate) use emit;

/// `emit!` that blames the user's token: mistakes in types show there, lints stay quiet.
macro_rules! emit_at {
    ($span:expr => $($tokens:tt)*) => {{
        let span: ::proc_macro2::Span = $crate::paths::at($span);
        ::quote::quote_spanned!(span=> $($tokens)*)
    }};
}
pub(crate) use emit_at;

/// `emit!` as if the user had written it there: for what must be blamed on one token alone.
macro_rules! emit_as {
    ($span:expr => $($tokens:tt)*) => {{
        let span: ::proc_macro2::Span = $span;
        ::quote::quote_spanned!(span=> $($tokens)*)
    }};
}
pub(crate) use emit_as;

/// An item's body in braces. They belong to the span of the item: with others, the whole macro is blamed.
pub(crate) fn braced(span: Span, body: TokenStream) -> Group {
    let mut group = Group::new(Delimiter::Brace, body);
    group.set_span(span);
    group
}

/// Our hygiene at the user's place.
pub(crate) fn at(span: Span) -> Span {
    Span::mixed_site().located_at(span)
}

/// The way to the runtime: what `crate = …` says, or else `::cqrs`, under the name that Cargo.toml gives it.
#[derive(Clone, Default)]
pub(crate) struct Krate(pub(crate) Option<Path>);

impl ToTokens for Krate {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match &self.0 {
            Some(path) => path.to_tokens(tokens),
            None => match manifest::renamed() {
                None => tokens.extend(quote!(::cqrs)),
                Some(name) => {
                    let name = Ident::new(name, Span::call_site());
                    tokens.extend(quote!(::#name));
                }
            },
        }
    }
}

/// Everything that is generated, hidden from the user's names and from their lints.
///
/// ```text
/// const _: () = {
///     use ::cqrs::__private as __cqrs;
///     …
/// };
/// ```
pub(crate) fn sealed(krate: &Krate, body: &TokenStream) -> TokenStream {
    emit! {
        #[allow(deprecated, unused_qualifications, reason = "generated")]
        const _: () = {
            use #krate::__private as __cqrs;
            #body
        };
    }
}
