//! Finds a second `#[aggregate]` block of one type.
//!
//! Two of them implement some ten traits twice, and the compiler reports each. A macro sees one block only,
//! so this looks into the source file around it, if there are two blocks in it at all. What is not found
//! there, such as a block in another file, is left to the compiler.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::Type;

use crate::attr::{names, spelled};

/// Which of several blocks this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twin {
    /// The first: it is the aggregate.
    First,
    /// One that has to be part of the first.
    Later,
}

/// Looks for others of the same type in the same module. `None` if there are none.
pub(crate) fn of(block: &TokenStream, this: &Type) -> Option<Twin> {
    // In unit tests there is no compiler to ask.
    let file = proc_macro::is_available().then(|| proc_macro::Span::call_site().local_file())??;
    let text = std::fs::read_to_string(file).ok()?;
    // Most files end here.
    let mut mentions = text.match_indices(names::AGGREGATE);
    mentions.nth(1)?;
    find(text.parse().ok()?, &body(block.clone())?, &spelled(this))
}

/// Looks through one file or one group of it.
fn find(tokens: TokenStream, mine: &str, this: &str) -> Option<Twin> {
    let mut blocks = Vec::new();
    let mut inner = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    let (mut marked, mut conditional) = (false, false);
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                let Some(TokenTree::Group(attribute)) = tokens.peek() else { continue };
                let words: Vec<String> = attribute
                    .stream()
                    .into_iter()
                    .map(|token| token.to_string())
                    .take_while(|word| !word.starts_with('('))
                    .collect();
                marked |= words.last().is_some_and(|word| word == names::AGGREGATE);
                conditional |= words.first().is_some_and(|word| word.starts_with("cfg"));
                tokens.next();
                continue;
            }
            TokenTree::Ident(word) if word == "impl" && marked && !conditional => {
                let mut ty = TokenStream::new();
                for token in tokens.by_ref() {
                    match token {
                        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                            blocks.push((spelled(&ty), text_of(&group.stream())));
                            break;
                        }
                        token => ty.extend([token]),
                    }
                }
            }
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => inner.push(group.stream()),
            _ => {}
        }
        (marked, conditional) = (false, false);
    }
    let of_this: Vec<&String> = blocks.iter().filter(|(ty, _)| ty == this).map(|(_, body)| body).collect();
    match of_this.iter().position(|body| *body == mine) {
        Some(0) if of_this.len() > 1 => Some(Twin::First),
        Some(1..) => Some(Twin::Later),
        _ => inner.into_iter().find_map(|tokens| find(tokens, mine, this)),
    }
}

/// What is in the braces of a block.
fn body(block: TokenStream) -> Option<String> {
    match block.into_iter().last() {
        Some(TokenTree::Group(group)) => Some(text_of(&group.stream())),
        _ => None,
    }
}

/// Tokens without what is between them.
fn text_of(tokens: &TokenStream) -> String {
    tokens.to_string().split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use proc_macro2::TokenStream;

    use super::{Twin, find, text_of};

    fn tokens(text: &str) -> TokenStream {
        text.parse().unwrap_or_else(|error| unreachable!("{error}"))
    }

    #[test]
    fn finds_blocks_of_one_type_in_one_module() {
        let (a, b) = ("fn a() {}", "fn b() {}");
        let at = "#[cqrs::aggregate(id = u64)]";
        let cases = [
            (format!("{at} impl A {{ {a} }} {at} impl A {{ {b} }}"), Some(Twin::First), Some(Twin::Later)),
            (
                format!("mod m {{ {at} impl A {{ {a} }} #[doc = \"x\"] {at} impl A {{ {b} }} }}"),
                Some(Twin::First),
                Some(Twin::Later),
            ),
            (format!("{at} impl A {{ {a} }} {at} impl B {{ {b} }}"), None, None),
            (format!("{at} impl A {{ {a} }} impl A {{ {b} }}"), None, None),
            (format!("mod m {{ {at} impl A {{ {a} }} }} mod n {{ {at} impl A {{ {b} }} }}"), None, None),
            (format!("#[cfg(x)] {at} impl A {{ {a} }} #[cfg(not(x))] {at} impl A {{ {b} }}"), None, None),
        ];
        for (file, first, later) in cases {
            let found = |body: &str| find(tokens(&file), &text_of(&tokens(body)), "A");
            assert_eq!((found(a), found(b)), (first, later), "{file}");
        }
    }
}
