//! A hash of code that is the same in every build and with every compiler: of the tokens, and not of how
//! they are laid out.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
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

impl Fnv {
    /// Tokens as they mean the same however they are laid out.
    fn code(&mut self, tokens: TokenStream) {
        let mut before = None;
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            // Documentation inside of a body: `#[doc = "…"]`.
            if let (TokenTree::Punct(hash), Some(TokenTree::Group(group))) = (&token, tokens.peek())
                && hash.as_char() == '#'
                && is_doc(group)
            {
                tokens.next();
                continue;
            }
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ',' => {}
                TokenTree::Punct(punct) if punct.as_char() == ';' && tokens.peek().is_none() => {}
                TokenTree::Punct(punct) => {
                    before = Some(punct.as_char());
                    self.bytes(punct.to_string().as_bytes());
                    self.bytes(&[0]);
                    continue;
                }
                TokenTree::Group(group) => {
                    // Behind `=>` and `|`, a formatter sets and takes off braces.
                    let braced = group.delimiter() == Delimiter::Brace && matches!(before, Some('>' | '|'));
                    let (open, close) = match group.delimiter() {
                        Delimiter::Parenthesis => ("(", ")"),
                        Delimiter::Brace if !braced => ("{", "}"),
                        Delimiter::Bracket => ("[", "]"),
                        Delimiter::Brace | Delimiter::None => ("", ""),
                    };
                    self.bytes(open.as_bytes());
                    self.code(group.stream());
                    self.bytes(close.as_bytes());
                }
                token => {
                    self.bytes(token.to_string().as_bytes());
                    self.bytes(&[0]);
                }
            }
            before = None;
        }
    }
}

fn is_doc(group: &proc_macro2::Group) -> bool {
    let first = group.stream().into_iter().next();
    group.delimiter() == Delimiter::Bracket
        && first.is_some_and(|first| matches!(first, TokenTree::Ident(ident) if ident == "doc"))
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

/// Of an item of a projection: with what its own attributes say, such as a key, and without what a formatter
/// may change: commas, a semicolon at the end, and braces around one expression.
pub(crate) fn fold(item: &ImplItem) -> u64 {
    let mut item = item.clone();
    let attrs = match &mut item {
        ImplItem::Fn(item) => Some(&mut item.attrs),
        ImplItem::Const(item) => Some(&mut item.attrs),
        ImplItem::Type(item) => Some(&mut item.attrs),
        ImplItem::Macro(item) => Some(&mut item.attrs),
        _ => None,
    };
    if let Some(attrs) = attrs {
        attrs.retain(|attr| ["on", "setup"].iter().any(|ours| attr.path().is_ident(ours)));
    }
    let mut hash = Fnv::new();
    hash.code(item.to_token_stream());
    hash.0
}

/// Of several in this order.
/// A hash of any tokens.
pub(crate) fn tokens(tokens: &impl ToTokens) -> u64 {
    let mut hash = Fnv::new();
    hash.tokens(tokens.to_token_stream());
    hash.0
}

pub(crate) fn all(hashes: &[u64]) -> u64 {
    let mut hash = Fnv::new();
    hashes.iter().for_each(|one| hash.bytes(&one.to_le_bytes()));
    hash.0
}

#[cfg(test)]
mod tests {
    use syn::{ImplItem, parse_quote};

    use super::{fold, item};

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

    #[test]
    fn a_fold_is_the_same_however_it_is_laid_out() {
        let read = |code: &str| {
            let item: ImplItem = syn::parse_str(code).unwrap_or_else(|error| unreachable!("{error}: {code}"));
            fold(&item)
        };
        let plain = "#[on(key = e.card)] fn paid(&mut self, e: &Paid) { \
                     match e.kind { A => self.n += 1, B => self.add(e.a, e.b) } \
                     self.all.retain(|one| one.is_open()); }";
        let same = [
            "#[on(key=e . card)]\nfn paid( & mut self , e : & Paid, )\n{ // A comment\n \
             match e.kind { A => { self.n += 1; } B => { self.add(e.a, e.b,) }, } \
             self.all.retain(|one| { one.is_open() }); }",
            "/// Says more.\n#[expect(unused)] #[on(key = e.card,)] fn paid(&mut self, e: &Paid) { \
             /// And here.\n match e.kind { A => self.n += 1, B => self.add(e.a, e.b), } \
             self.all.retain(|one| one.is_open()); }",
        ];
        for same in same {
            assert_eq!(read(plain), read(same), "{same}");
        }
        for (from, to) in [
            ("e.card", "e.shop"),
            ("+= 1", "+= 2"),
            ("e.a, e.b", "e.b, e.a"),
            ("is_open", "is_shut"),
            ("A =>", "C =>"),
        ] {
            assert_ne!(read(plain), read(&plain.replace(from, to)), "{from}");
        }
        // What is stored today is to be found by tomorrow's release.
        assert_eq!(read("fn paid(&mut self, e: &Paid) { self.n += 1 }"), 25_550_874_950_055_802);
    }
}
