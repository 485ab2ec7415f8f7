//! Tokens as a user writes them: the compiler's own text has a blank around each.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// The text of a type or a path.
pub(crate) fn tokens(tokens: TokenStream) -> String {
    let mut text = String::new();
    write(tokens, &mut text);
    text.trim_end().to_owned()
}

fn write(tokens: TokenStream, text: &mut String) {
    // What a following word must be kept apart from.
    let mut word = false;
    let mut before = ' ';
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                let kept_apart = match group.delimiter() {
                    Delimiter::None => word,
                    // `dyn (A)`, but `Fn(A)`.
                    Delimiter::Parenthesis => text.ends_with("dyn") || text.ends_with("impl"),
                    Delimiter::Brace | Delimiter::Bracket => false,
                };
                if kept_apart {
                    text.push(' ');
                }
                text.push_str(open);
                write(group.stream(), text);
                text.truncate(text.trim_end().len());
                text.push_str(close);
                (word, before) = (true, ')');
            }
            TokenTree::Punct(punct) => {
                let at = punct.as_char();
                let alone = punct.spacing() == Spacing::Alone;
                match at {
                    '+' => text.push_str(" + "),
                    '=' if alone => text.push_str(" = "),
                    '-' if !alone => text.push_str(" -"),
                    '>' if before == '-' => text.push_str("> "),
                    ',' | ';' => text.extend([at, ' ']),
                    ':' if alone && before != ':' => text.push_str(": "),
                    '\'' if word => text.extend([' ', at]),
                    _ => text.push(at),
                }
                // `for<'a> Fn()`
                word = at == '>' && before != '-';
                before = at;
            }
            token => {
                if word {
                    text.push(' ');
                }
                text.push_str(&token.to_string());
                (word, before) = (true, 'a');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::tokens;

    #[test]
    fn reads_like_code() {
        for text in [
            "card::Paid",
            "::std::sync::Arc<dyn Rates>",
            "&'a mut Option<&Self>",
            "Result<(Opened, Vec<Seen>), Error>",
            "Box<dyn for<'a> Fn(&'a str) -> Vec<u8> + Send>",
            "<T as a::Of<B>>::Id",
            "[u64; N]",
            "Map<u64, [Name; 3]>",
            "impl IntoIterator<Item = Opened>",
            "*const T",
            "Fill<3>",
        ] {
            assert_eq!(tokens(text.parse().unwrap_or_default()), text);
        }
    }
}
