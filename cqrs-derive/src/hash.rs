//! A hash of code that is the same in every build and with every compiler: of the tokens, and not of how
//! they are laid out.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::ImplItem;

/// FNV-1a in 64 bits.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn tokens(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => {
                    let (open, close) = match group.delimiter() {
                        Delimiter::Parenthesis => ("(", ")"),
                        Delimiter::Brace => ("{", "}"),
                        Delimiter::Bracket => ("[", "]"),
                        Delimiter::None => ("", ""),
                    };
                    self.bytes(open.as_bytes());
                    self.tokens(group.stream());
                    self.bytes(close.as_bytes());
                }
                token => self.bytes(token.to_string().as_bytes()),
            }
            // No token lends a letter to the next.
            self.bytes(&[0]);
        }
    }
}

/// Of an item without its attributes, which documentation is too.
pub(crate) fn item(item: &ImplItem) -> u64 {
    let mut item = item.clone();
    match &mut item {
        ImplItem::Fn(item) => item.attrs.clear(),
        ImplItem::Const(item) => item.attrs.clear(),
        ImplItem::Type(item) => item.attrs.clear(),
        ImplItem::Macro(item) => item.attrs.clear(),
        _ => {}
    }
    let mut hash = Fnv::new();
    hash.tokens(item.to_token_stream());
    hash.0
}

/// Of several in this order.
pub(crate) fn all(hashes: &[u64]) -> u64 {
    let mut hash = Fnv::new();
    hashes.iter().for_each(|one| hash.bytes(&one.to_le_bytes()));
    hash.0
}

#[cfg(test)]
mod tests {
    use syn::{ImplItem, parse_quote};

    use super::item;

    #[test]
    fn code_counts_and_its_looks_do_not() {
        let plain: ImplItem = parse_quote!(
            fn deposited(&mut self, e: &Deposited) {
                self.balance += e.cents;
            }
        );
        let documented: ImplItem = parse_quote!(
            #[apply]
            #[doc = "Adds."]
            fn deposited(&mut self, e: &Deposited) {
                self.balance += e.cents;
            }
        );
        let laid_out = "fn deposited (\n & mut self , e : & Deposited )\n{\n// Adds.\n    self . balance += e . cents ;\n}";
        let laid_out: ImplItem = syn::parse_str(laid_out).unwrap_or_else(|error| unreachable!("{error}"));
        let other: ImplItem = parse_quote!(
            fn deposited(&mut self, e: &Deposited) {
                self.balance -= e.cents;
            }
        );
        assert_eq!(item(&plain), item(&documented));
        assert_eq!(item(&plain), item(&laid_out));
        assert_ne!(item(&plain), item(&other));
        // What is stored today is to be found by tomorrow's release.
        assert_eq!(item(&plain), 5_643_382_420_797_068_548);
    }
}
