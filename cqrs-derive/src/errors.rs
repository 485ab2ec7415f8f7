//! Collects every mistake of an item, so that all are reported at once and each of them once.

use std::cell::{Cell, RefCell};
use std::fmt::Display;

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;
use syn::{Ident, Path};

/// The mistakes found so far. Readers report here and go on; nobody returns early.
#[derive(Default)]
pub(crate) struct Errors {
    all: RefCell<Vec<syn::Error>>,
    empty: RefCell<Vec<Ident>>,
    without_macros: Cell<bool>,
}

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
        self.all.borrow_mut().push(error);
    }

    /// The body of this method makes no sense on account of a mistake in its signature: it is left out,
    /// so that nothing in it is reported.
    pub(crate) fn empty(&self, method: &Ident) {
        self.empty.borrow_mut().push(method.clone());
    }

    /// The methods whose bodies are left out.
    pub(crate) fn emptied(&self) -> Vec<Ident> {
        self.empty.borrow().clone()
    }

    /// A macro is called where what it expands to is not seen: the call is left out, so that the attributes
    /// in it are not reported.
    pub(crate) fn unseen(&self, call: &Path, attribute: &str, marks: &str) {
        self.at(
            call,
            format_args!(
                "`#[{attribute}]` does not see what this macro expands to: write its methods with {marks} here, or let it expand to the whole `impl` block with `#[{attribute}]`"
            ),
        );
        self.without_macros.set(true);
    }

    /// Whether calls of macros are left out.
    pub(crate) fn without_macros(&self) -> bool {
        self.without_macros.get()
    }

    /// How many there are by now: a reader compares before and after.
    pub(crate) fn count(&self) -> usize {
        self.all.borrow().len()
    }

    /// The `compile_error!`s, or nothing if all is well.
    pub(crate) fn into_tokens(self) -> Option<TokenStream> {
        let all = self.all.into_inner();
        if all.is_empty() { None } else { Some(all.iter().map(syn::Error::to_compile_error).collect()) }
    }
}
