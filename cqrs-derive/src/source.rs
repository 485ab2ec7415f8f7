//! The source around a block: a macro sees its own tokens only, and two mistakes need more than that. What
//! is not found here is left to the compiler.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::{Attribute, Ident, Item, TraitItem, Type, TypeParamBound, TypeTraitObject, UseTree, Visibility};

use crate::model::plain;

/// The file of a block.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Source {
    /// Reads the file that the macro is called in.
    pub(crate) fn read() -> Option<Self> {
        // In unit tests there is no compiler to ask.
        let path = proc_macro::is_available().then(|| proc_macro::Span::call_site().local_file())??;
        let text = std::fs::read_to_string(&path).ok()?;
        Some(Self { path, text })
    }
}

/// Returns the content of a block's braces, without the spaces.
pub(crate) fn body(block: TokenStream) -> Option<String> {
    match block.into_iter().last() {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            Some(text_of(&group.stream()))
        }
        _ => None,
    }
}

/// Tokens without what is between them. Token by token, since a comment for documentation prints in one way
/// before it was looked at, and in another after that.
pub(crate) fn text_of(tokens: &TokenStream) -> String {
    let mut text = String::new();
    for token in tokens.clone() {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                text.push_str(open);
                text.push_str(&text_of(&group.stream()));
                text.push_str(close);
            }
            token => text.push_str(&token.to_string()),
        }
    }
    text
}

/// The names of types in the module of a block, which find one type under two names.
///
/// Each of two methods for it implements several traits, and the compiler reports each.
pub(crate) struct Names<'a> {
    source: Option<&'a Source>,
    block: &'a TokenStream,
    file: OnceCell<Option<syn::File>>,
    aliases: OnceCell<HashSet<&'a str>>,
    paths: OnceCell<HashMap<String, String>>,
}

impl<'a> Names<'a> {
    pub(crate) fn new(source: Option<&'a Source>, block: &'a TokenStream) -> Self {
        let (file, aliases, paths) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Self { source, block, file, aliases, paths }
    }

    fn text(&self) -> &'a str {
        self.source.map_or("", |source| source.text.as_str())
    }

    /// Returns the items of the block's module. The file is parsed once, and only if this is called.
    fn items(&self) -> Option<&[Item]> {
        let file = self.file.get_or_init(|| syn::parse_file(self.text()).ok()).as_ref()?;
        module(&file.items, &body(self.block.clone())?)
    }

    /// Returns whether both name one type, as far as is known.
    pub(crate) fn are_same(&self, one: &Type, other: &Type) -> bool {
        if one == other {
            return true;
        }
        let (Some(one), Some(other)) = (segments(one), segments(other)) else { return false };
        let is_alias = |path: &[String]| path.last().is_some_and(|last| self.is_alias(last));
        if one.last() != other.last() && !is_alias(&one) && !is_alias(&other) {
            return false;
        }
        self.resolved(&one) == self.resolved(&other)
    }

    /// Returns whether the module defines a type of this name.
    pub(crate) fn is_taken(&self, name: &Ident) -> bool {
        let words = ["enum", "struct", "type", "union"];
        if !words.iter().any(|word| self.text().contains(&format!("{word} {name}"))) {
            return false;
        }
        let is_it = |item: &Item| match item {
            Item::Enum(item) => item.ident == *name,
            Item::Struct(item) => item.ident == *name,
            Item::Type(item) => item.ident == *name,
            Item::Union(item) => item.ident == *name,
            _ => false,
        };
        self.items().is_some_and(|items| items.iter().any(is_it))
    }

    /// Returns whether the module declares one type `pub` and the other one private.
    pub(crate) fn is_private_beside(&self, other: &Type, public: &Type) -> bool {
        let (Type::Path(other), Type::Path(public)) = (other, public) else { return false };
        let (Some(other), Some(public)) = (other.path.get_ident(), public.path.get_ident()) else {
            return false;
        };
        let says = |start: &str, name: &Ident| {
            ["struct", "enum"].iter().any(|word| self.text().contains(&format!("{start}{word} {name}")))
        };
        if !says("pub ", public) || says("pub ", other) || !says("", other) {
            return false;
        }
        let visibility = |name: &Ident| {
            self.items()?.iter().find_map(|item| match item {
                Item::Enum(item) if item.ident == *name => Some(&item.vis),
                Item::Struct(item) if item.ident == *name => Some(&item.vis),
                _ => None,
            })
        };
        matches!(visibility(public), Some(Visibility::Public(_)))
            && matches!(visibility(other), Some(Visibility::Inherited))
    }

    /// The `async` method of a trait of the module: with one, it cannot be a trait object.
    pub(crate) fn async_method(&self, bounds: &TypeTraitObject) -> Option<(Ident, Ident)> {
        let text = self.text();
        let mut names = bounds.bounds.iter().filter_map(|bound| match bound {
            TypeParamBound::Trait(bound) => bound.path.get_ident(),
            _ => None,
        });
        let name = names.find(|name| text.contains(&format!("trait {name}")))?;
        if !text.contains("async fn") {
            return None;
        }
        self.items()?.iter().find_map(|item| match item {
            Item::Trait(found) if found.ident == *name => found.items.iter().find_map(|item| match item {
                TraitItem::Fn(method) if method.sig.asyncness.is_some() => {
                    Some((name.clone(), method.sig.ident.clone()))
                }
                _ => None,
            }),
            _ => None,
        })
    }

    /// Returns whether something in the file may be another name: most files end here, without being parsed.
    fn is_alias(&self, name: &str) -> bool {
        let aliases = self.aliases.get_or_init(|| {
            let text = self.text();
            let after = |word: &'static str| {
                text.match_indices(word).filter_map(move |(at, _)| {
                    let rest = text.get(at + word.len()..)?.trim_start();
                    rest.split(|one: char| !one.is_alphanumeric() && one != '_').next()
                })
            };
            after("type ").chain(after(" as ")).collect()
        });
        aliases.contains(name)
    }

    /// Replaces each name that the module declares for a type in a path.
    fn resolved(&self, path: &[String]) -> Vec<String> {
        let paths = self.paths.get_or_init(|| self.read().unwrap_or_default());
        let mut path = path.to_vec();
        // A cycle does not compile.
        for _ in 0..8 {
            let Some(found) = path.first().and_then(|first| paths.get(first)) else { break };
            let rest = path.split_off(1);
            path = found.split("::").map(str::to_owned).collect();
            path.extend(rest);
        }
        path
    }

    fn read(&self) -> Option<HashMap<String, String>> {
        let mut paths = HashMap::new();
        for item in self.items()? {
            match item {
                Item::Use(item) if !is_conditional(&item.attrs) => {
                    for_each_use(&item.tree, &mut Vec::new(), &mut |name, path| {
                        if name != "*" {
                            let (name, path) = import(name, path);
                            paths.insert(name, path);
                        }
                    });
                }
                Item::Type(item) if !is_conditional(&item.attrs) && item.generics.params.is_empty() => {
                    if let Some(path) = segments(&item.ty) {
                        paths.insert(plain(&item.ident), path.join("::"));
                    }
                }
                _ => {}
            }
        }
        // `use Paid;` names itself.
        paths.retain(|name, path| name != path);
        Some(paths)
    }
}

/// The items of the module that has this block.
fn module<'a>(items: &'a [Item], body: &str) -> Option<&'a [Item]> {
    let is_here = |item: &Item| match item {
        Item::Impl(block) => self::body(quote::ToTokens::to_token_stream(block)).is_some_and(|of| of == body),
        _ => false,
    };
    if items.iter().any(is_here) {
        return Some(items);
    }
    items.iter().find_map(|item| match item {
        Item::Mod(inner) => module(&inner.content.as_ref()?.1, body),
        _ => None,
    })
}

fn is_conditional(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|attr| attr.path().is_ident("cfg") || attr.path().is_ident("cfg_attr"))
}

/// The names of a plain path, without a `self::` before them.
fn segments(ty: &Type) -> Option<Vec<String>> {
    let Type::Path(path) = ty else { return None };
    if path.qself.is_some() || path.path.segments.iter().any(|segment| !segment.arguments.is_none()) {
        return None;
    }
    let names = path.path.segments.iter().map(|segment| plain(&segment.ident));
    Some(names.skip_while(|name| name == "self").collect())
}

/// Calls `each` for every import of a `use` with the name that it declares and its full path; both end with `*` for a
/// glob.
fn for_each_use(tree: &UseTree, before: &mut Vec<String>, each: &mut dyn FnMut(String, Vec<String>)) {
    let path_to = |before: &[String], last: String| before.iter().cloned().chain([last]).collect();
    match tree {
        UseTree::Path(path) => {
            before.push(plain(&path.ident));
            for_each_use(&path.tree, before, each);
            before.pop();
        }
        UseTree::Name(name) => {
            let name = plain(&name.ident);
            each(name.clone(), path_to(before, name));
        }
        UseTree::Rename(rename) => each(plain(&rename.rename), path_to(before, plain(&rename.ident))),
        UseTree::Group(group) => group.items.iter().for_each(|tree| for_each_use(tree, before, each)),
        UseTree::Glob(_) => each("*".to_owned(), path_to(before, "*".to_owned())),
    }
}

/// Returns the name that an import declares and what it stands for, without `self` at the start or the end of the path.
fn import(mut name: String, mut path: Vec<String>) -> (String, String) {
    if path.last().is_some_and(|last| last == "self") {
        path.pop();
        if name == "self" {
            name = path.last().cloned().unwrap_or_default();
        }
    }
    (name, path.into_iter().skip_while(|name| name == "self").collect::<Vec<_>>().join("::"))
}

/// Returns the paths of all imports of a file, with `*` at the end for a glob.
pub(crate) fn all_imports(items: &[Item]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for item in items {
        match item {
            Item::Use(item) => for_each_use(&item.tree, &mut Vec::new(), &mut |_, path| all.push(path)),
            Item::Mod(inner) => {
                all.extend(inner.content.iter().flat_map(|(_, items)| all_imports(items)));
            }
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use syn::parse_quote;

    use super::{Names, Source};

    #[test]
    fn finds_one_type_under_two_names() {
        let text = "
            use crate::events::{self, Opened, Closed as Shut, card::Paid as CardPaid, cash::Paid as CashPaid};
            use self::here::Seen as Looked;
            type Begun = Opened;
            type Started = Begun;
            #[cfg(unix)] type Other = Opened;
            mod inner { type Hidden = Opened; }
            #[aggregate(id = u64)]
            impl Account { fn opened() {} }
        ";
        let source = Source { path: PathBuf::new(), text: text.to_owned() };
        let block =
            "impl Account { fn opened() { } }".parse().unwrap_or_else(|error| unreachable!("{error}"));
        let names = Names::new(Some(&source), &block);
        for (one, other, same) in [
            (parse_quote!(Opened), parse_quote!(Begun), true),
            (parse_quote!(Begun), parse_quote!(Started), true),
            (parse_quote!(events::Opened), parse_quote!(Started), true),
            (parse_quote!(crate::events::Opened), parse_quote!(Opened), true),
            (parse_quote!(events::Closed), parse_quote!(Shut), true),
            (parse_quote!(here::Seen), parse_quote!(Looked), true),
            (parse_quote!(CardPaid), parse_quote!(CashPaid), false),
            (parse_quote!(events::card::Paid), parse_quote!(events::cash::Paid), false),
            (parse_quote!(Opened), parse_quote!(Other), false),
            (parse_quote!(Opened), parse_quote!(Hidden), false),
            (parse_quote!(Opened), parse_quote!(Shut), false),
        ] {
            assert_eq!(names.are_same(&one, &other), same, "{one:?} and {other:?}");
        }
    }
}
