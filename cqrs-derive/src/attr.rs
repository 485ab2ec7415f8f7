//! The only reader of raw attributes: from tokens to typed values that remember where they stood.

use proc_macro2::{Delimiter, Spacing, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream, Parser as _};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, Expr, ExprPath, Ident, LitInt, LitStr, Meta, Path, Token, Type};

use crate::errors::Errors;
use crate::paths::Krate;
use crate::{normal, spell, suggest};

/// The attributes of the macros, as users write them.
pub(crate) mod names {
    pub(crate) const EVENT: &str = "event";
    pub(crate) const TAG: &str = "tag";
    pub(crate) const COMMAND: &str = "command";
    pub(crate) const ID: &str = "id";
    pub(crate) const EXPECTED_VERSION: &str = "expected_version";
    pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency_key";
    pub(crate) const AGGREGATE: &str = "aggregate";
    pub(crate) const HANDLE: &str = "handle";
    pub(crate) const APPLY: &str = "apply";
    pub(crate) const PROJECTION: &str = "projection";
    pub(crate) const ON: &str = "on";
    pub(crate) const SETUP: &str = "setup";
}

/// What `#[event(…)]` says.
#[derive(Default)]
pub(crate) struct EventArgs {
    pub(crate) krate: Krate,
    pub(crate) name: Option<LitStr>,
    pub(crate) version: Option<(u32, LitInt)>,
    pub(crate) from: Option<Type>,
    pub(crate) replaces: Vec<Type>,
    pub(crate) upcast: Option<Steps>,
    /// The function of `upcast_bytes = …`.
    pub(crate) upcast_bytes: Option<ExprPath>,
    pub(crate) codec: Option<Type>,
    /// Whether a way from an older version was written, be it wrongly.
    pub(crate) has_way: bool,
}

/// The functions of `upcast(…)`.
pub(crate) struct Steps {
    pub(crate) keyword: Ident,
    pub(crate) functions: Vec<ExprPath>,
}

impl EventArgs {
    const KEYS: &'static [&'static str] =
        &["name", "version", "from", "replaces", "upcast", "upcast_bytes", "codec", "crate"];

    /// Reads all `#[event(…)]` among the attributes.
    pub(crate) fn read(attrs: &[Attribute], errors: &Errors) -> Self {
        let mut args = Self::default();
        let mut list = Arguments::new(names::EVENT, Self::KEYS, errors).repeatable("replaces");
        for attr in attrs.iter().filter(|attr| attr.path().is_ident(names::EVENT)) {
            list.read_attribute(attr, |key, input| args.read_one(key, input));
        }
        args
    }

    fn read_one(&mut self, key: &Ident, input: ParseStream<'_>) -> syn::Result<()> {
        self.has_way |= ["from", "replaces", "upcast", "upcast_bytes"].iter().any(|way| key == way);
        match key.to_string().as_str() {
            "name" => self.name = Some(text(key, input)?),
            "version" => self.version = Some(version(key, input)?),
            "from" => self.from = Some(ty(key, input, "the type of the version before")?),
            "replaces" => self.replaces.extend(types(key, input)?),
            "upcast" => self.upcast = Some(steps(key, input)?),
            "upcast_bytes" => {
                self.upcast_bytes =
                    Some(function(key, input, "a function `fn(u32, &[u8]) -> Option<Vec<u8>>`")?);
            }
            "codec" => self.codec = Some(ty(key, input, "a type that implements `Codec`")?),
            _ => self.krate = krate(key, input)?,
        }
        Ok(())
    }
}

/// What `#[command(…)]` says.
#[derive(Default)]
pub(crate) struct CommandArgs {
    pub(crate) krate: Krate,
    pub(crate) name: Option<LitStr>,
}

impl CommandArgs {
    /// Reads all `#[command(…)]` among the attributes.
    pub(crate) fn read(attrs: &[Attribute], errors: &Errors) -> Self {
        let mut args = Self::default();
        let mut list = Arguments::new(names::COMMAND, &["name", "crate"], errors);
        for attr in attrs.iter().filter(|attr| attr.path().is_ident(names::COMMAND)) {
            list.read_attribute(attr, |key, input| {
                match key.to_string().as_str() {
                    "name" => args.name = Some(text(key, input)?),
                    _ => args.krate = krate(key, input)?,
                }
                Ok(())
            });
        }
        args
    }
}

/// What `#[aggregate(…)]` says.
#[derive(Default)]
pub(crate) struct AggregateArgs {
    pub(crate) krate: Krate,
    pub(crate) id: Option<Type>,
    /// Whether `id` was written at all, be it wrongly.
    pub(crate) has_id: bool,
    pub(crate) error: Option<Type>,
    /// True if `error` was written, also with a wrong value.
    pub(crate) has_error: bool,
    pub(crate) name: Option<LitStr>,
    pub(crate) events: Option<Ident>,
    pub(crate) snapshot: Option<Snapshot>,
    /// The function that turns a rejection of an inline projection into the domain's error.
    pub(crate) rejection: Option<ExprPath>,
    /// The function that returns how much memory a state owns.
    pub(crate) state_size: Option<ExprPath>,
}

/// What `snapshot = every(500, version = 2)` says.
pub(crate) struct Snapshot {
    /// Where it says so.
    pub(crate) keyword: Ident,
    pub(crate) every: u64,
    pub(crate) version: u32,
}

impl AggregateArgs {
    const KEYS: &'static [&'static str] =
        &["id", "error", "name", "events", "snapshot", "rejection", "state_size", "crate"];

    /// Reads the arguments of the attribute.
    pub(crate) fn read(tokens: TokenStream, errors: &Errors) -> Self {
        let mut args = Self::default();
        let mut list = Arguments::new(names::AGGREGATE, Self::KEYS, errors);
        list.read_list(tokens, |key, input| args.read_one(key, input));
        args
    }

    fn read_one(&mut self, key: &Ident, input: ParseStream<'_>) -> syn::Result<()> {
        match key.to_string().as_str() {
            "id" => {
                self.has_id = true;
                self.id = Some(ty(key, input, "the type of the id")?);
            }
            "error" => {
                self.has_error = true;
                self.error = Some(ty(key, input, "the error that handlers return")?);
            }
            "name" => self.name = Some(text(key, input)?),
            "events" => self.events = Some(ident(key, input)?),
            "snapshot" => self.snapshot = Some(snapshot(key, input)?),
            "rejection" => {
                self.rejection = Some(function(key, input, "a function `fn(&Rejection) -> Option<Error>`")?);
            }
            "state_size" => {
                self.state_size = Some(function(key, input, "a function `fn(&Self) -> usize`")?);
            }
            _ => self.krate = krate(key, input)?,
        }
        Ok(())
    }
}

/// What `#[projection(…)]` says.
#[derive(Default)]
pub(crate) struct ProjectionArgs {
    pub(crate) krate: Krate,
    pub(crate) name: Option<LitStr>,
    /// Whether `name` was written at all, be it wrongly.
    pub(crate) has_name: bool,
    pub(crate) key: Option<Type>,
    /// Whether `key` was written at all, be it wrongly.
    pub(crate) has_key: bool,
    /// The argument `key` itself.
    pub(crate) key_word: Option<Ident>,
    pub(crate) mode: Option<(Mode, Ident)>,
    /// The database that its own statements are for.
    pub(crate) sql: Option<Type>,
    /// The argument `fold_in_memory` itself.
    pub(crate) fold_in_memory: Option<Ident>,
    /// Whether `sql` was written at all, be it wrongly.
    pub(crate) has_sql: bool,
}

/// When a read model is brought up to date.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Async,
    Inline,
    Live,
}

impl ProjectionArgs {
    const KEYS: &'static [&'static str] = &["name", "key", "mode", "sql", "fold_in_memory", "crate"];

    /// Reads the arguments of the attribute.
    pub(crate) fn read(tokens: TokenStream, errors: &Errors) -> Self {
        let mut args = Self::default();
        let mut list = Arguments::new(names::PROJECTION, Self::KEYS, errors);
        list.read_list(tokens, |key, input| args.read_one(key, input));
        args
    }

    fn read_one(&mut self, key: &Ident, input: ParseStream<'_>) -> syn::Result<()> {
        match key.to_string().as_str() {
            "name" => {
                self.has_name = true;
                self.name = Some(text(key, input)?);
            }
            "key" => {
                self.has_key = true;
                self.key_word = Some(key.clone());
                self.key = Some(ty(key, input, "the type of the key")?);
            }
            "mode" => self.mode = Some(mode(key, input)?),
            "sql" => {
                self.has_sql = true;
                self.sql = Some(ty(key, input, "the database that its statements are for")?);
            }
            "fold_in_memory" => self.fold_in_memory = Some(word(key, input)?),
            _ => self.krate = krate(key, input)?,
        }
        Ok(())
    }
}

/// What `#[on]` or `#[on(key = …)]` says.
pub(crate) fn on_key(attr: &Attribute, errors: &Errors) -> Option<Expr> {
    let mut found = None;
    if matches!(attr.meta, Meta::Path(_)) {
        return found;
    }
    Arguments::new(names::ON, &["key"], errors).read_attribute(attr, |key, input| {
        equals(key, input, "an expression that gives the key")?;
        found = Some(normal::expr(input.parse()?));
        Ok(())
    });
    found.filter(|key| is_plain_key(key, errors))
}

/// A key is computed before there is a document, and always is one.
fn is_plain_key(key: &Expr, errors: &Errors) -> bool {
    struct Finder(Vec<(Span, &'static str)>);
    impl VisitMut for Finder {
        fn visit_expr_try_mut(&mut self, found: &mut syn::ExprTry) {
            self.0.push((
                found.question_token.span,
                "a key cannot fail: leave `?` out; an `Option` gives no key when it is `None`, as `.ok()` makes one",
            ));
            visit_mut::visit_expr_try_mut(self, found);
        }
        fn visit_expr_path_mut(&mut self, path: &mut ExprPath) {
            if path.path.is_ident("self") {
                self.0.push((
                    path.path.span(),
                    "the key says which document is changed, so there is no `self` yet: compute it from the event",
                ));
            }
        }
        // What leaves these is theirs.
        fn visit_expr_closure_mut(&mut self, _: &mut syn::ExprClosure) {}
        fn visit_expr_async_mut(&mut self, _: &mut syn::ExprAsync) {}
    }
    let mut finder = Finder(Vec::new());
    finder.visit_expr_mut(&mut key.clone());
    finder.0.iter().for_each(|(span, message)| errors.here(*span, message));
    finder.0.is_empty()
}

/// Reports a key where there are no documents.
pub(crate) fn no_key(attr: &Attribute, errors: &Errors) {
    if let Meta::List(list) = &attr.meta
        && !list.tokens.is_empty()
    {
        errors.at(
            &list.tokens,
            "a projection with its own SQL has no documents: its statements say which rows they change; write `#[on]`",
        );
    }
}

/// What `#[tag]` or `#[tag(name = "…")]` says.
pub(crate) fn tag_name(attr: &Attribute, errors: &Errors) -> Option<LitStr> {
    let mut found = None;
    if matches!(attr.meta, Meta::Path(_)) {
        return found;
    }
    Arguments::new(names::TAG, &["name"], errors).read_attribute(attr, |key, input| {
        found = Some(text(key, input)?);
        Ok(())
    });
    found
}

/// Reports arguments of an attribute that takes none.
pub(crate) fn no_arguments(attr: &Attribute, name: &str, errors: &Errors) {
    match &attr.meta {
        Meta::Path(_) => {}
        Meta::List(list) if list.tokens.is_empty() => {}
        Meta::List(list) => errors.at(&list.tokens, format_args!("`#[{name}]` takes no arguments")),
        Meta::NameValue(pair) => errors.at(&pair.value, format_args!("`#[{name}]` takes no value")),
    }
}

/// Reads one list of arguments after the other: `key`, `key = value`, `key(…)`.
struct Arguments<'a> {
    attribute: &'static str,
    keys: &'static [&'static str],
    repeatable: &'static str,
    seen: Vec<String>,
    errors: &'a Errors,
}

impl<'a> Arguments<'a> {
    fn new(attribute: &'static str, keys: &'static [&'static str], errors: &'a Errors) -> Self {
        Self { attribute, keys, repeatable: "", seen: Vec::new(), errors }
    }

    fn repeatable(self, key: &'static str) -> Self {
        Self { repeatable: key, ..self }
    }

    fn read_attribute(
        &mut self,
        attr: &Attribute,
        read: impl FnMut(&Ident, ParseStream<'_>) -> syn::Result<()>,
    ) {
        match &attr.meta {
            Meta::List(list) => self.read_list(list.tokens.clone(), read),
            Meta::Path(path) => self.errors.at(
                path,
                format_args!(
                    "`#[{0}]` says nothing: write `#[{0}({1} = …)]`, or leave it out",
                    self.attribute, self.keys[0]
                ),
            ),
            Meta::NameValue(pair) => self.errors.at(
                &pair.value,
                format_args!(
                    "write the arguments in parentheses: `#[{}({} = …)]`",
                    self.attribute, self.keys[0]
                ),
            ),
        }
    }

    fn read_list(
        &mut self,
        tokens: TokenStream,
        mut read: impl FnMut(&Ident, ParseStream<'_>) -> syn::Result<()>,
    ) {
        let parser = |input: ParseStream<'_>| {
            while !input.is_empty() {
                if let Err(error) = self.read_entry(input, &mut read) {
                    self.errors.push(error);
                    skip_value(input);
                }
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        };
        if let Err(error) = parser.parse2(tokens) {
            self.errors.push(error);
        }
    }

    fn read_entry(
        &mut self,
        input: ParseStream<'_>,
        read: &mut impl FnMut(&Ident, ParseStream<'_>) -> syn::Result<()>,
    ) -> syn::Result<()> {
        let Ok(key) = input.call(Ident::parse_any) else {
            return Err(input.error(format_args!(
                "expected an argument of `#[{}]`: {}",
                self.attribute,
                suggest::list(self.keys)
            )));
        };
        let text = key.to_string();
        if !self.keys.contains(&text.as_str()) {
            let hint = suggest::instead(&text, self.keys);
            return Err(syn::Error::new(
                key.span(),
                format_args!("`#[{}]` has no argument `{text}`: {hint}", self.attribute),
            ));
        }
        if self.seen.contains(&text) && text != self.repeatable {
            return Err(syn::Error::new(
                key.span(),
                format_args!("`{text}` is given twice: leave one of them out"),
            ));
        }
        self.seen.push(text);
        read(&key, input)?;
        if input.is_empty() || input.peek(Token![,]) {
            return Ok(());
        }
        Err(input.error("expected `,` between two arguments"))
    }
}

/// Skips what is left of an argument: up to the next comma that is not inside `<…>`.
fn skip_value(input: ParseStream<'_>) {
    let mut depth = 0_usize;
    let mut arrow = false;
    while !input.is_empty() && (depth > 0 || !input.peek(Token![,])) {
        let Ok(token) = input.parse::<TokenTree>() else { return };
        if let TokenTree::Punct(punct) = &token {
            match punct.as_char() {
                '<' => depth += 1,
                '>' if !arrow => depth = depth.saturating_sub(1),
                _ => {}
            }
            arrow = matches!(punct.as_char(), '-' | '=') && punct.spacing() == Spacing::Joint;
        }
    }
}

fn equals(key: &Ident, input: ParseStream<'_>, what: &str) -> syn::Result<()> {
    if input.peek(Token![=]) {
        input.parse::<Token![=]>()?;
        if !input.is_empty() && !input.peek(Token![,]) {
            return Ok(());
        }
    }
    Err(syn::Error::new(key.span(), format_args!("`{key}` needs a value: {what}, as in `{key} = …`")))
}

/// A stored name, in quotes.
fn text(key: &Ident, input: ParseStream<'_>) -> syn::Result<LitStr> {
    equals(key, input, "a text")?;
    if input.peek(LitStr) {
        let text: LitStr = input.parse()?;
        return match wrong_name(&text.value()) {
            None => Ok(text),
            Some(wrong) => Err(syn::Error::new(text.span(), format_args!("`{key}` {wrong}"))),
        };
    }
    let value = input.parse::<TokenTree>()?;
    let ends = input.is_empty() || input.peek(Token![,]);
    let message = match &value {
        // A constant is in capitals.
        TokenTree::Ident(word) if ends && word.to_string().contains(char::is_lowercase) => {
            format!("`{key}` is a text in quotes: write `{key} = \"{word}\"`")
        }
        TokenTree::Literal(_) => format!("`{key}` is a text in quotes, as in `{key} = \"…\"`"),
        _ => format!(
            "`{key}` is a text in quotes: it is read before constants and macros have values; write the text itself, `{key} = \"…\"`"
        ),
    };
    Err(syn::Error::new(value.span(), message))
}

/// The longest name that every store takes: `Limits::standard().name_bytes`.
pub(crate) const NAME_BYTES: usize = 200;

#[cfg(test)]
#[test]
fn names_are_as_long_as_in_every_store() {
    assert_eq!(NAME_BYTES, cqrs::store::Limits::standard().name_bytes);
}

/// Why a name cannot be stored, to go after its argument.
pub(crate) fn wrong_name(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("is empty: give it a text".to_owned());
    }
    if let Some(found) = name.chars().find(|one| one.is_control()) {
        return Some(format!("contains the control character U+{:04X}: remove it", u32::from(found)));
    }
    if name.trim() != name {
        return Some("starts or ends with a space: remove it".to_owned());
    }
    (name.len() > NAME_BYTES)
        .then(|| format!("has {} bytes; a stored name has at most {NAME_BYTES}", name.len()))
}

/// Reports the name of a type that is too long to be its stored name.
pub(crate) fn long_ident(ident: &Ident, attribute: &str, errors: &Errors) {
    if let Some(wrong) = wrong_name(&ident.unraw().to_string()) {
        errors.at(
            ident,
            format_args!("this name {wrong}: give it another one, `#[{attribute}(name = \"…\")]`"),
        );
    }
}

fn version(key: &Ident, input: ParseStream<'_>) -> syn::Result<(u32, LitInt)> {
    equals(key, input, "a number from 1")?;
    let wrong = |span: Span| syn::Error::new(span, "`version` is a number from 1, as in `version = 2`");
    if !input.peek(LitInt) {
        return Err(wrong(input.parse::<TokenTree>()?.span()));
    }
    let literal: LitInt = input.parse()?;
    match literal.base10_parse::<u32>() {
        Ok(number) if number > 0 && literal.suffix().is_empty() => Ok((number, literal)),
        _ => Err(wrong(literal.span())),
    }
}

fn ty(key: &Ident, input: ParseStream<'_>, what: &str) -> syn::Result<Type> {
    equals(key, input, what)?;
    if input.peek(LitStr) {
        let text: LitStr = input.parse()?;
        let fix = text.value();
        return Err(syn::Error::new(text.span(), format_args!("`{key}` is a type: write `{key} = {fix}`")));
    }
    input.parse().map(normal::ty)
}

fn ident(key: &Ident, input: ParseStream<'_>) -> syn::Result<Ident> {
    equals(key, input, "a name for the enum of events")?;
    if input.peek(Ident) {
        return input.parse();
    }
    let value = input.parse::<TokenTree>()?;
    Err(syn::Error::new(value.span(), format_args!("`{key}` is a name, as in `{key} = AccountEvent`")))
}

/// An argument without a value.
fn word(key: &Ident, input: ParseStream<'_>) -> syn::Result<Ident> {
    if input.is_empty() || input.peek(Token![,]) {
        return Ok(key.clone());
    }
    Err(input.error(format_args!("`{key}` takes no value: write `{key}`, or leave it out")))
}

/// `mode = async`, the first of which is a word of the language.
fn mode(key: &Ident, input: ParseStream<'_>) -> syn::Result<(Mode, Ident)> {
    const MODES: &str = "`async`, `inline` or `live`";
    equals(key, input, MODES)?;
    let wrong = |span: Span| syn::Error::new(span, format_args!("`mode` is {MODES}, as in `mode = inline`"));
    let Ok(word) = input.call(Ident::parse_any) else {
        return Err(wrong(input.parse::<TokenTree>()?.span()));
    };
    let mode = match word.to_string().as_str() {
        "async" => Mode::Async,
        "inline" => Mode::Inline,
        "live" => Mode::Live,
        _ => return Err(wrong(word.span())),
    };
    Ok((mode, word))
}

fn krate(key: &Ident, input: ParseStream<'_>) -> syn::Result<Krate> {
    equals(key, input, "the path of the crate `cqrs`")?;
    if input.peek(LitStr) {
        let text: LitStr = input.parse()?;
        let fix = text.value();
        return Err(syn::Error::new(text.span(), format_args!("`crate` is a path: write `crate = {fix}`")));
    }
    Ok(Krate(Some(input.call(Path::parse_mod_style)?)))
}

/// `replaces = A` or `replaces(A, B)`.
fn types(key: &Ident, input: ParseStream<'_>) -> syn::Result<Vec<Type>> {
    match parenthesized(input)? {
        Some((_, types)) => Ok(types.into_iter().map(normal::ty).collect()),
        None => Ok(vec![ty(key, input, "the type of an event that it replaces")?]),
    }
}

/// `upcast_bytes = f`.
fn function(key: &Ident, input: ParseStream<'_>, signature: &str) -> syn::Result<ExprPath> {
    equals(key, input, signature)?;
    if input.peek(LitStr) {
        let text: LitStr = input.parse()?;
        let fix = text.value();
        return Err(syn::Error::new(
            text.span(),
            format_args!("`{key}` is a function: write `{key} = {fix}`"),
        ));
    }
    named(input.parse()?, key, signature)
}

/// Returns the path of a function, which may be captured or in parentheses.
fn named(mut expr: Expr, key: &Ident, signature: &str) -> syn::Result<ExprPath> {
    loop {
        expr = match expr {
            Expr::Path(path) => return Ok(path),
            Expr::Group(group) => *group.expr,
            Expr::Paren(paren) => *paren.expr,
            other => {
                let message =
                    format!("`{key}` takes the name of a function: write {signature}, and its name here");
                return Err(syn::Error::new_spanned(other, message));
            }
        }
    }
}

/// `upcast(f1, f2)`.
fn steps(key: &Ident, input: ParseStream<'_>) -> syn::Result<Steps> {
    let Some((_, functions)) = parenthesized::<Expr>(input)? else {
        return Err(syn::Error::new(
            key.span(),
            "`upcast` is a list of functions from JSON to JSON, one per version: write `upcast(from_v1, from_v2)`",
        ));
    };
    let step = |function| named(function, key, "a function `fn(Value) -> Value`");
    Ok(Steps { keyword: key.clone(), functions: functions.into_iter().map(step).collect::<Result<_, _>>()? })
}

/// `every(500)` or `every(500, version = 2)`.
fn snapshot(key: &Ident, input: ParseStream<'_>) -> syn::Result<Snapshot> {
    if input.peek(Token![=]) {
        input.parse::<Token![=]>()?;
    }
    rule(key, input)
}

fn rule(key: &Ident, input: ParseStream<'_>) -> syn::Result<Snapshot> {
    let wrong = |span: Span| {
        syn::Error::new(
            span,
            "`snapshot` says after how many events one is kept: write `snapshot = every(500)`",
        )
    };
    if input.is_empty() || input.peek(Token![,]) {
        return Err(wrong(key.span()));
    }
    let word = input.parse::<TokenTree>()?;
    if let TokenTree::Group(group) = &word
        && group.delimiter() == Delimiter::None
    {
        let rest = |input: ParseStream<'_>| rule(key, input);
        return rest.parse2(group.stream());
    }
    match &word {
        TokenTree::Ident(ident) if ident == "every" && input.peek(syn::token::Paren) => {}
        // The number is known.
        TokenTree::Literal(number) if number.to_string().parse::<u64>().is_ok_and(|number| number > 0) => {
            let fix = format!("write `snapshot = every({number})`");
            return Err(syn::Error::new(word.span(), format_args!("`snapshot` takes a rule: {fix}")));
        }
        _ => return Err(wrong(word.span())),
    }
    let TokenTree::Group(group) = input.parse::<TokenTree>()? else { return Err(wrong(word.span())) };
    let rule = |input: ParseStream<'_>| every(input, group.span());
    let (every, version) = rule.parse2(group.stream())?;
    Ok(Snapshot { keyword: key.clone(), every, version })
}

/// The number and the version in `every(…)`.
fn every(input: ParseStream<'_>, whole: Span) -> syn::Result<(u64, u32)> {
    const KEYS: &[&str] = &["version"];
    let wrong =
        |span: Span| syn::Error::new(span, "`every` takes a number of events from 1, as in `every(500)`");
    if !input.peek(LitInt) {
        return Err(wrong(input.parse::<TokenTree>().map_or(whole, |token| token.span())));
    }
    let literal: LitInt = input.parse()?;
    let number = literal.base10_parse::<u64>().ok().filter(|_| literal.suffix().is_empty());
    let number = number.filter(|number| *number > 0).ok_or_else(|| wrong(literal.span()))?;
    let mut given = None;
    while !input.is_empty() {
        input.parse::<Token![,]>()?;
        if input.is_empty() {
            break;
        }
        let Ok(key) = input.call(Ident::parse_any) else {
            return Err(input.error("expected `version = …`, the version of the fold"));
        };
        let text = key.to_string();
        if !KEYS.contains(&text.as_str()) {
            let hint = suggest::instead(&text, KEYS);
            return Err(syn::Error::new(
                key.span(),
                format_args!("`every` has no argument `{text}`: {hint}"),
            ));
        }
        let (number, _) = version(&key, input)?;
        if given.replace(number).is_some() {
            return Err(syn::Error::new(key.span(), "`version` is given twice: leave one of them out"));
        }
    }
    Ok((number, given.unwrap_or(1)))
}

fn parenthesized<T: Parse>(input: ParseStream<'_>) -> syn::Result<Option<(Span, Vec<T>)>> {
    if !input.peek(syn::token::Paren) {
        return Ok(None);
    }
    let TokenTree::Group(group) = input.parse::<TokenTree>()? else { return Ok(None) };
    let list = Punctuated::<T, Token![,]>::parse_terminated.parse2(group.stream())?;
    Ok(Some((group.span(), list.into_iter().collect())))
}

/// The attribute of this name, and reports it if it is there twice.
pub(crate) fn single<'a>(attrs: &'a [Attribute], name: &str, errors: &Errors) -> Option<&'a Attribute> {
    let mut all = attrs.iter().filter(|attr| attr.path().is_ident(name));
    let first = all.next();
    for again in all {
        errors.at(again.path(), format_args!("`#[{name}]` is given twice: leave one of them out"));
    }
    first
}

/// Reports an attribute that stands in the wrong place.
pub(crate) fn misplaced(attrs: &[Attribute], name: &str, belongs: &str, errors: &Errors) {
    for attr in attrs.iter().filter(|attr| attr.path().is_ident(name)) {
        errors.at(attr.path(), format_args!("`#[{name}]` does not belong here: {belongs}"));
    }
}

/// An attribute that nobody knows, but whose name is nearly this one.
pub(crate) fn nearly<'a>(attrs: &'a [Attribute], name: &str) -> Option<&'a Attribute> {
    attrs.iter().find(|attr| {
        let Some(ident) = attr.path().get_ident() else { return false };
        let ident = ident.to_string();
        ident != name && !KNOWN.contains(&ident.as_str()) && suggest::is_near(&ident, name)
    })
}

/// A `#[cfg_attr(…, name)]`: inside a block, nobody resolves it before the macro reads.
pub(crate) fn conditional<'a>(attrs: &'a [Attribute], name: &str) -> Option<&'a Attribute> {
    attrs.iter().find(|attr| {
        let Meta::List(list) = &attr.meta else { return false };
        let mut after = false;
        attr.path().is_ident("cfg_attr")
            && list.tokens.clone().into_iter().any(|token| {
                let found = after && matches!(&token, TokenTree::Ident(word) if word == name);
                after = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ',');
                found
            })
    })
}

/// Reports what was meant as `#[on]`; `None` if nothing was.
pub(crate) fn not_on(attrs: &[Attribute], errors: &Errors) -> Option<()> {
    if let Some(attr) = nearly(attrs, names::ON) {
        errors.at(attr.path(), "no such attribute: did you mean `#[on]`?");
        return Some(());
    }
    let attr = conditional(attrs, names::ON)?;
    refuse_conditional(attr, names::ON, names::PROJECTION, errors);
    Some(())
}

/// Reports it.
pub(crate) fn refuse_conditional(attr: &Attribute, name: &str, macro_name: &str, errors: &Errors) {
    errors.at(
        attr.path(),
        format_args!(
            "`#[{macro_name}]` does not see what is in a `cfg_attr`: write `#[{name}]`, and put the condition into the method's body"
        ),
    );
}

/// Whether it marks a method for us, be it misplaced, or a misspelling of one of these.
pub(crate) fn is_ours(attr: &Attribute, of_this_macro: &[&str]) -> bool {
    let this = std::slice::from_ref(attr);
    [names::HANDLE, names::APPLY, names::ON, names::SETUP].iter().any(|name| attr.path().is_ident(name))
        || of_this_macro.iter().any(|name| nearly(this, name).or(conditional(this, name)).is_some())
}

/// Attributes of the language whose names a short name of ours could be mistaken for.
const KNOWN: &[&str] = &["doc", "cfg", "cold", "allow", "deny", "warn", "inline", "must_use", "expect"];

/// A type as a user writes it.
pub(crate) fn spelled(tokens: &impl ToTokens) -> String {
    spell::tokens(tokens.to_token_stream())
}
