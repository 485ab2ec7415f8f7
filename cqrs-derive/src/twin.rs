//! Finds a second `#[aggregate]` or `#[projection]` block of one type.
//!
//! Two of them implement several traits twice, and the compiler reports each. A macro sees one block only,
//! so this looks into the source file around it, if there are two blocks in it at all, and into other files,
//! if the type comes from there or something seems to be missing. What is not found there is left to the
//! compiler.

use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::Type;

use crate::attr::spelled;
use crate::check::type_ident;
use crate::model::plain;
use crate::source::{Source, all_imports, body, text_of};

/// Which of several blocks this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twin {
    /// The first: it is the aggregate or the projection.
    First,
    /// One that has to be part of the first.
    Later,
}

/// More files than that are not searched.
const FILES: usize = 500;

/// Looks for others of the same type with the same attribute. `None` if there are none. A block that is
/// complete, in the file of its type, has none that matter to it.
pub(crate) fn of(
    source: &Source,
    block: &TokenStream,
    this: &Type,
    attribute: &str,
    is_complete: bool,
) -> Option<Twin> {
    let name = plain(&type_ident(this));
    let is_defined_here = defines(&source.text, &name);
    let is_alone = is_defined_here && is_complete;
    // Most files end here.
    if is_alone && source.text.match_indices(attribute).nth(1).is_none() {
        return None;
    }
    // A block that a macro has written is not in the file, and its type may not be in any.
    let place = find(source.text.parse().ok()?, &body(block.clone())?, &spelled(this), attribute)?;
    if is_alone || place.of > 1 {
        return place.twin();
    }
    let files = files(&source.path)?;
    elsewhere(&source.path, &files, &name, attribute, is_defined_here)
}

/// Looks through the files of the crate.
fn elsewhere(
    path: &Path,
    files: &[(PathBuf, String)],
    name: &str,
    attribute: &str,
    is_defined_here: bool,
) -> Option<Twin> {
    // With two types of one name it is unclear which is meant.
    let mut defining = files.iter().filter(|(_, text)| defines(text, name));
    let (Some((defining, _)), None) = (defining.next(), defining.next()) else { return None };
    let belongs = |(path, text): &(PathBuf, String)| {
        text.contains(attribute)
            && is_module(path, files)
            && text.parse().is_ok_and(|tokens| refers(path, text, tokens, name, attribute, defining))
    };
    let (mine, others): (Vec<_>, Vec<_>) =
        files.iter().filter(|file| belongs(file)).partition(|(other, _)| other == path);
    let comes_first = |other: &(PathBuf, String)| other.0 == *defining || other.0.as_path() < path;
    match others.as_slice() {
        _ if mine.is_empty() => None,
        [] => None,
        _ if is_defined_here || !others.iter().any(|other| comes_first(other)) => Some(Twin::First),
        _ => Some(Twin::Later),
    }
}

/// Returns whether a file has a block of the type of this name that this file defines, as far as its path or its
/// import tells.
fn refers(
    path: &Path,
    text: &str,
    tokens: TokenStream,
    name: &str,
    attribute: &str,
    defining: &Path,
) -> bool {
    let of_this = block_paths(tokens, name, attribute);
    if of_this.is_empty() || path == defining {
        return !of_this.is_empty();
    }
    let is_there = |before: &str| is_called(defining, before, path);
    if of_this.iter().any(|path| path.iter().rev().nth(1).is_some_and(|before| is_there(before))) {
        return true;
    }
    let Ok(file) = syn::parse_file(text) else { return false };
    all_imports(&file.items).iter().any(|path| match path.as_slice() {
        [.., before, last] => (last == name || last == "*") && is_there(before),
        _ => false,
    })
}

/// Returns whether another file refers to a file by this module name.
fn is_called(file: &Path, name: &str, from: &Path) -> bool {
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let is_root = |path: &Path| stem(path).is_some_and(|stem| ["lib", "main"].contains(&stem.as_str()));
    match name {
        "crate" => is_root(file),
        // `a/mod.rs`, `lib.rs`, or `a.rs` for `a/b.rs`.
        "super" => {
            let is_above = is_root(file) || stem(file).is_some_and(|stem| stem == "mod");
            is_above && file.parent() == from.parent() || from.parent() == Some(&file.with_extension(""))
        }
        name => module_name(file).is_some_and(|module| module == name),
    }
}

fn module_name(path: &Path) -> Option<String> {
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    match stem(path)? {
        name if name == "mod" => path.parent().and_then(stem),
        name => Some(name),
    }
}

/// Returns the files of the crate: those in its `src`, or next to this one; `None` if there are too many.
fn files(path: &Path) -> Option<Vec<(PathBuf, String)>> {
    let is_root = |dir: &&Path| dir.ends_with("src") && dir.with_file_name("Cargo.toml").is_file();
    let root = path.ancestors().find(is_root).or(path.parent())?;
    let (mut dirs, mut found) = (vec![root.to_owned()], Vec::new());
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                if found.len() == FILES {
                    return None;
                }
                let text = std::fs::read_to_string(&path).ok()?;
                found.push((path, text));
            }
        }
    }
    Some(found)
}

/// Returns whether some file declares this one as a module: others are no part of the crate.
fn is_module(path: &Path, files: &[(PathBuf, String)]) -> bool {
    let Some(name) = module_name(path) else { return false };
    if ["main", "lib"].contains(&name.as_str()) {
        return true;
    }
    let (declared, given) = (format!("mod {name};"), format!("{name}.rs\""));
    files.iter().any(|(_, text)| text.contains(&declared) || text.contains(&given))
}

/// Returns whether a struct or an enum of this name is defined in a file.
fn defines(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let (before, after) =
            (text.get(..at).unwrap_or_default(), text.get(at + name.len()..).unwrap_or_default());
        let before = before.trim_end().trim_end_matches("r#").trim_end();
        let ends = !after.starts_with(|one: char| one.is_alphanumeric() || one == '_');
        ends && (before.ends_with("struct") || before.ends_with("enum"))
    })
}

/// The marked blocks of one file or one group of it, with type and body, and the groups in it.
fn blocks(tokens: TokenStream, attribute: &str) -> (Vec<(TokenStream, TokenStream)>, Vec<TokenStream>) {
    let mut blocks = Vec::new();
    let mut inner = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    let (mut marked, mut conditional) = (false, false);
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                let Some(TokenTree::Group(group)) = tokens.peek() else { continue };
                let words: Vec<String> = group
                    .stream()
                    .into_iter()
                    .map(|token| token.to_string())
                    .take_while(|word| !word.starts_with('('))
                    .collect();
                marked |= words.last().is_some_and(|word| word == attribute);
                conditional |= words.first().is_some_and(|word| word.starts_with("cfg"));
                tokens.next();
                continue;
            }
            TokenTree::Ident(word) if word == "impl" && marked && !conditional => {
                let mut ty = TokenStream::new();
                for token in tokens.by_ref() {
                    match token {
                        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                            blocks.push((ty, group.stream()));
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
    (blocks, inner)
}

/// A block among those of its type in its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    at: usize,
    of: usize,
}

impl Place {
    fn twin(self) -> Option<Twin> {
        match self {
            Self { of: 1, .. } => None,
            Self { at: 0, .. } => Some(Twin::First),
            Self { .. } => Some(Twin::Later),
        }
    }
}

/// Looks through one file or one group of it for the module that has a block of this type and body.
fn find(tokens: TokenStream, mine: &str, this: &str, attribute: &str) -> Option<Place> {
    let (blocks, inner) = blocks(tokens, attribute);
    let of_this = blocks.iter().filter(|(ty, _)| spelled(ty) == this);
    let of_this: Vec<String> = of_this.map(|(_, body)| text_of(body)).collect();
    match of_this.iter().position(|body| *body == mine) {
        Some(at) => Some(Place { at, of: of_this.len() }),
        None => inner.into_iter().find_map(|tokens| find(tokens, mine, this, attribute)),
    }
}

/// The paths of the types of this name that have a block.
fn block_paths(tokens: TokenStream, name: &str, attribute: &str) -> Vec<Vec<String>> {
    let (blocks, inner) = blocks(tokens, attribute);
    let path = |ty: &TokenStream| match syn::parse2(ty.clone()).ok()? {
        Type::Path(path) => {
            Some(path.path.segments.iter().map(|segment| plain(&segment.ident)).collect::<Vec<_>>())
        }
        _ => None,
    };
    let own = blocks
        .iter()
        .filter_map(|(ty, _)| path(ty))
        .filter(|path| path.last().is_some_and(|last| last == name));
    let inner = inner.into_iter().flat_map(|tokens| block_paths(tokens, name, attribute));
    own.chain(inner).collect()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use proc_macro2::TokenStream;

    use super::{Place, Twin, defines, elsewhere, find};
    use crate::source::text_of;

    fn tokens(text: &str) -> TokenStream {
        text.parse().unwrap_or_else(|error| unreachable!("{error}"))
    }

    #[test]
    fn finds_blocks_of_one_type_in_one_module() {
        let (a, b) = ("/// A.\n fn a() {}", "fn b() {}");
        let at = "#[cqrs::aggregate(id = u64)]";
        let cases = [
            (format!("{at} impl A {{ {a} }} {at} impl A {{ {b} }}"), Some(Twin::First), Some(Twin::Later)),
            (
                format!("mod m {{ {at} impl A {{ {a} }} #[doc = \"x\"] {at} impl A {{ {b} }} }}"),
                Some(Twin::First),
                Some(Twin::Later),
            ),
            (format!("{at} impl A {{ {a} }} {at} impl B {{ {b} }}"), None, None),
            (format!("{at} impl A {{ {a} }} #[projection] impl A {{ {b} }}"), None, None),
            (format!("{at} impl A {{ {a} }} impl A {{ {b} }}"), None, None),
            (format!("mod m {{ {at} impl A {{ {a} }} }} mod n {{ {at} impl A {{ {b} }} }}"), None, None),
            (format!("#[cfg(x)] {at} impl A {{ {a} }} #[cfg(not(x))] {at} impl A {{ {b} }}"), None, None),
        ];
        for (file, first, later) in cases {
            let found = |body: &str| {
                find(tokens(&file), &text_of(&tokens(body)), "A", "aggregate").and_then(Place::twin)
            };
            assert_eq!((found(a), found(b)), (first, later), "{file}");
        }
    }

    #[test]
    fn finds_blocks_of_one_type_in_several_files() {
        const DEFINED: &str = "pub struct Account; #[aggregate(id = u64)] impl Account {}";
        const BLOCK: &str = "use super::a::Account; #[aggregate(id = u64)] impl Account {}";
        const BY_PATH: &str = "#[aggregate(id = u64)] impl super::Account {}";
        const ROOT: &str = "mod a; mod b;";
        let found = |files: [(&str, &str); 3]| {
            let files = files.map(|(path, text)| (PathBuf::from(path), text.to_owned()));
            let place = |path: &str| {
                let here =
                    files.iter().any(|(other, text)| other == Path::new(path) && defines(text, "Account"));
                elsewhere(Path::new(path), &files, "Account", "aggregate", here)
            };
            (place("src/a.rs"), place("src/b.rs"))
        };
        let both = (Some(Twin::First), Some(Twin::Later));
        assert_eq!(found([("src/lib.rs", ROOT), ("src/a.rs", DEFINED), ("src/b.rs", BLOCK)]), both);
        let glob = BLOCK.replace("a::Account", "a::*");
        assert_eq!(found([("src/lib.rs", ROOT), ("src/a.rs", DEFINED), ("src/b.rs", &glob)]), both);
        let above = format!("{ROOT} struct Account;");
        assert_eq!(found([("src/lib.rs", &above), ("src/a.rs", BY_PATH), ("src/b.rs", BY_PATH)]), both);

        let none = (None, None);
        assert_eq!(
            found([("src/lib.rs", ROOT), ("src/a.rs", DEFINED), ("src/b.rs", DEFINED)]),
            none,
            "namesakes"
        );
        assert_eq!(
            found([("src/lib.rs", "mod a;"), ("src/a.rs", DEFINED), ("src/b.rs", BLOCK)]),
            none,
            "no module"
        );
        let by_macro = "define!(Account); #[aggregate(id = u64)] impl Account {}";
        assert_eq!(
            found([("src/lib.rs", ROOT), ("src/a.rs", DEFINED), ("src/b.rs", by_macro)]),
            none,
            "a macro's"
        );
        let other_crate = BLOCK.replace("super::a", "other");
        assert_eq!(found([("src/lib.rs", ROOT), ("src/a.rs", DEFINED), ("src/b.rs", &other_crate)]), none);
        assert_eq!(found([("src/lib.rs", ROOT), ("src/a.rs", DEFINED), ("src/b.rs", "")]), none);
    }

    #[test]
    fn does_not_find_the_block_of_a_macro() {
        let file =
            tokens("macro_rules! m { ($t:ty) => { #[projection(name = \"a\")] impl $t { fn a() {} } } }");
        assert_eq!(find(file, "fna(){}", "Account", "projection"), None);
    }
}
