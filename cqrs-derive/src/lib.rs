//! The macros.
#![forbid(unsafe_code)]

mod attr;
mod check;
mod drive;
mod errors;
mod expand;
mod fallback;
mod model;
mod paths;
mod suggest;

use proc_macro::TokenStream;

/// See the guide.
#[proc_macro_derive(Event, attributes(event, tag))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    drive::event(input.into()).into()
}
/// See the guide.
#[proc_macro_derive(Command, attributes(command, id, expected_version, idempotency_key))]
pub fn derive_command(input: TokenStream) -> TokenStream {
    drive::command(input.into()).into()
}
/// See the guide.
#[proc_macro_attribute]
pub fn aggregate(args: TokenStream, item: TokenStream) -> TokenStream {
    drive::aggregate(args.into(), &item.into()).into()
}
/// See the guide.
#[proc_macro_attribute]
pub fn projection(args: TokenStream, item: TokenStream) -> TokenStream {
    drive::projection(args.into(), &item.into()).into()
}
