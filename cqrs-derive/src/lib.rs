//! The macros.
use proc_macro::TokenStream;

/// x
#[proc_macro_derive(Event, attributes(event, tag))]
pub fn derive_event(_: TokenStream) -> TokenStream {
    TokenStream::new()
}
/// x
#[proc_macro_derive(Command, attributes(command, id, expected_version, idempotency_key))]
pub fn derive_command(_: TokenStream) -> TokenStream {
    TokenStream::new()
}
/// x
#[proc_macro_attribute]
pub fn aggregate(_: TokenStream, item: TokenStream) -> TokenStream {
    item
}
/// x
#[proc_macro_attribute]
pub fn projection(_: TokenStream, item: TokenStream) -> TokenStream {
    item
}
