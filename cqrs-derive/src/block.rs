//! Reads an `impl` block that may be half typed.
//!
//! `syn` refuses a block as a whole for one unfinished expression, and then every command of the block
//! has no handler either. So bodies are not parsed at all: they stay what they were, and the compiler
//! reports what is wrong in them. A method whose signature does not parse still names its command or
//! its event, if that can be made out.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::parse::{ParseStream, Parser as _};
use syn::spanned::Spanned as _;
use syn::{
    Attribute, Expr, FnArg, Generics, Ident, ImplItem, ImplItemFn, Item, ItemImpl, ReturnType, Safety,
    Signature, Stmt, Token, Visibility, braced, token,
};

use crate::normal;
use crate::paths::{emit, emit_as};

/// A block, as far as it can be read.
pub(crate) struct Block {
    /// What was read. A body is one piece of tokens.
    pub(crate) item: ItemImpl,
    /// Methods that the compiler reports, for what they say about commands and events.
    pub(crate) unfinished: Vec<ImplItemFn>,
    /// Whether something has a mistake in its syntax, and is not in `item`.
    pub(crate) is_unread: bool,
}

/// Reads the item that an attribute stands on: `None` if it is not an `impl` block.
pub(crate) fn read(tokens: &TokenStream) -> syn::Result<Option<Block>> {
    let mut tokens: Vec<TokenTree> = unwrapped(tokens.clone()).into_iter().collect();
    let Some(TokenTree::Group(body)) = tokens.last() else {
        return syn::parse2::<Item>(tokens.into_iter().collect()).map(|_| None);
    };
    let content = body.stream();
    let mut empty = Group::new(body.delimiter(), TokenStream::new());
    empty.set_span(body.span());
    tokens.pop();
    tokens.push(TokenTree::Group(empty));
    let Item::Impl(item) = syn::parse2::<Item>(tokens.into_iter().collect())? else { return Ok(None) };
    let mut block = Block { item, unfinished: Vec::new(), is_unread: false };
    let read = |input: ParseStream<'_>| {
        block.item.attrs.extend(input.call(Attribute::parse_inner)?);
        while !input.is_empty() {
            block.read_item(input);
        }
        Ok(())
    };
    read.parse2(content)?;
    normal::block(&mut block.item);
    block.unfinished.iter_mut().for_each(|method| normal::signature(&mut method.sig));
    Ok(Some(block))
}

/// An item that a macro has captured comes in a group.
fn unwrapped(tokens: TokenStream) -> TokenStream {
    let mut all = tokens.clone().into_iter();
    match (all.next(), all.next()) {
        (Some(TokenTree::Group(group)), None) if group.delimiter() == Delimiter::None => {
            unwrapped(group.stream())
        }
        _ => tokens,
    }
}

impl Block {
    /// Returns whether several methods have this name, which the compiler reports: it is not clear which is called.
    pub(crate) fn is_repeated(&self, name: &Ident) -> bool {
        let is_this = |item: &&ImplItem| matches!(item, ImplItem::Fn(method) if method.sig.ident == *name);
        self.item.items.iter().filter(is_this).nth(1).is_some()
    }

    /// The first call of a macro among the items: what it expands to is not seen.
    pub(crate) fn macro_call(&self) -> Option<&syn::Path> {
        self.item.items.iter().find_map(|item| match item {
            ImplItem::Macro(call) => Some(&call.mac.path),
            _ => None,
        })
    }

    /// Reads one item, or skips what is none.
    fn read_item(&mut self, input: ParseStream<'_>) {
        let ahead = input.fork();
        let head = ahead.call(Attribute::parse_outer).and_then(|attrs| Ok((attrs, ahead.parse()?)));
        let Ok((attrs, vis)) = head else { return self.skip(input, Vec::new()) };
        if !is_fn(&ahead) {
            let ahead = input.fork();
            return match ahead.parse::<ImplItem>() {
                Ok(item) => {
                    advance(input, &ahead);
                    self.item.items.push(item);
                }
                Err(_) => self.skip(input, attrs),
            };
        }
        match method(&ahead, attrs.clone(), vis) {
            Ok((mut method, None)) => {
                advance(input, &ahead);
                if let [Stmt::Expr(Expr::Verbatim(body), None)] = method.block.stmts.as_mut_slice()
                    && syn::Block::parse_within.parse2(body.clone()).is_err()
                {
                    *body = unread();
                    method.attrs.push(syn::parse_quote!(#[allow(unused, reason = "left out")]));
                    self.is_unread = true;
                }
                self.item.items.push(ImplItem::Fn(method));
            }
            Ok((method, Some(semi))) => {
                advance(input, &ahead);
                // Without the attributes, which the compiler would not know.
                let ImplItemFn { vis, sig, .. } = &method;
                self.item.items.push(ImplItem::Verbatim(quote::quote!(#vis #sig #semi)));
                self.unfinished.push(method);
            }
            Err(_) => self.skip(input, attrs),
        }
    }

    /// Skips to the end of an item: after the next body or `;`, or before the next attribute or `pub`.
    fn skip(&mut self, input: ParseStream<'_>, attrs: Vec<Attribute>) {
        self.is_unread = true;
        let mut skipped = Vec::new();
        // The attributes are known.
        let _ = input.call(Attribute::parse_outer);
        while let Ok(token) = input.parse::<TokenTree>() {
            let ends = match &token {
                TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                TokenTree::Punct(punct) => punct.as_char() == ';',
                _ => false,
            };
            skipped.push(token);
            if ends || input.peek(Token![#]) || input.peek(Token![pub]) {
                break;
            }
        }
        self.unfinished.extend(guessed(&skipped, attrs));
    }
}

fn advance(input: ParseStream<'_>, ahead: ParseStream<'_>) {
    use syn::parse::discouraged::Speculative as _;
    input.advance_to(ahead);
}

/// Whether a function comes.
fn is_fn(input: ParseStream<'_>) -> bool {
    let ahead = input.fork();
    let _ = ahead.parse::<Option<Token![default]>>();
    while ahead.peek(Token![const])
        || ahead.peek(Token![async])
        || ahead.peek(Token![unsafe])
        || ahead.peek(Token![extern])
        || ahead.peek(syn::LitStr)
    {
        let _ = ahead.parse::<TokenTree>();
    }
    ahead.peek(Token![fn])
}

/// A method, and the `;` in place of its body.
fn method(
    input: ParseStream<'_>,
    mut attrs: Vec<Attribute>,
    vis: Visibility,
) -> syn::Result<(ImplItemFn, Option<Token![;]>)> {
    let mut modifiers = syn::FnModifiers::default();
    modifiers.defaultness = input.parse()?;
    let sig: Signature = input.parse()?;
    if let Some(semi) = input.parse::<Option<Token![;]>>()? {
        let block = syn::Block { brace_token: token::Brace(semi.span()), stmts: Vec::new() };
        return Ok((ImplItemFn { attrs, vis, modifiers, sig, block }, Some(semi)));
    }
    let content;
    let brace_token = braced!(content in input);
    attrs.extend(content.call(Attribute::parse_inner)?);
    let body: TokenStream = content.parse()?;
    let stmts = if body.is_empty() { Vec::new() } else { vec![Stmt::Expr(Expr::Verbatim(body), None)] };
    Ok((ImplItemFn { attrs, vis, modifiers, sig, block: syn::Block { brace_token, stmts } }, None))
}

/// Stands for a body that was not read.
pub(crate) fn unread() -> TokenStream {
    emit!(::core::unreachable!())
}

impl Block {
    /// What was not read, for the compiler.
    ///
    /// It has reported what is wrong with it. It does so again if it parses it again, and one of two equal
    /// messages is not shown.
    pub(crate) fn unread(&self, written: &TokenStream) -> Option<TokenStream> {
        let guard = guard(self.item.self_ty.span());
        // As the last item, it takes nothing along that is needed.
        self.is_unread.then(|| emit!(#guard #[cfg(any())] #written))
    }
}

/// Accompanies code that could not be read, which the compiler has therefore reported. Should it have found
/// nothing wrong, because it knows a syntax that this macro does not, then the lint stops it: lints come last,
/// and not after an error.
pub(crate) fn guard(span: Span) -> TokenStream {
    emit_as! { span =>
        #[allow(dead_code, reason = "generated")]
        const _: () = {
            #[must_use = "the macros of cqrs cannot read this: its syntax is newer than they are"]
            fn unread() {}
            #[deny(unused_must_use)]
            fn guard() {
                unread();
            }
        };
    }
}

/// What a method that does not parse says about its command or its event.
fn guessed(tokens: &[TokenTree], attrs: Vec<Attribute>) -> Option<ImplItemFn> {
    let at = tokens.iter().position(|token| matches!(token, TokenTree::Ident(word) if word == "fn"))?;
    let ident = match tokens.get(at + 1)? {
        TokenTree::Ident(ident) => Ident::new(&ident.to_string(), ident.span()),
        other => Ident::new("unnamed", other.span()),
    };
    let params = tokens.iter().skip(at).find_map(|token| match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis => Some(group),
        _ => None,
    })?;
    let sig = Signature {
        constness: None,
        asyncness: None,
        safety: Safety::Default,
        abi: None,
        fn_token: Token![fn](ident.span()),
        ident,
        generics: Generics::default(),
        paren_token: token::Paren(params.span()),
        inputs: split(params.stream()).into_iter().filter_map(param).collect(),
        variadic: None,
        output: ReturnType::Default,
    };
    let block = syn::Block { brace_token: token::Brace(params.span()), stmts: Vec::new() };
    Some(ImplItemFn { attrs, vis: Visibility::Inherited, modifiers: syn::FnModifiers::default(), sig, block })
}

/// A parameter, or what of it parses: the `cmd: Deposit` of `&self cmd: Deposit`.
fn param(tokens: TokenStream) -> Option<FnArg> {
    if let Ok(param) = syn::parse2(tokens.clone()) {
        return Some(param);
    }
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is_colon = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':');
    let name = tokens.iter().position(is_colon)?.checked_sub(1)?;
    syn::parse2(tokens.into_iter().skip(name).collect()).ok()
}

/// At the commas that are not inside `<…>`.
fn split(tokens: TokenStream) -> Vec<TokenStream> {
    let mut all = vec![TokenStream::new()];
    let mut depth = 0_usize;
    for token in tokens {
        if let TokenTree::Punct(punct) = &token {
            match punct.as_char() {
                '<' => depth += 1,
                '>' => depth = depth.saturating_sub(1),
                ',' if depth == 0 => {
                    all.push(TokenStream::new());
                    continue;
                }
                _ => {}
            }
        }
        if let Some(last) = all.last_mut() {
            token.to_tokens(last);
        }
    }
    all
}
