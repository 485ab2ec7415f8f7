//! What the user wrote, read once: the only thing that `check` and `expand` look at.

pub(crate) mod aggregate;
pub(crate) mod command;
pub(crate) mod event;
pub(crate) mod method;
pub(crate) mod projection;
pub(crate) mod sql;

use syn::Ident;
use syn::ext::IdentExt as _;

/// The name as text, without a raw identifier's `r#`.
pub(crate) fn plain(ident: &Ident) -> String {
    ident.unraw().to_string()
}
