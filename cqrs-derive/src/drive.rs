//! parse → check → expand, for each macro.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::{DeriveInput, Ident, ImplItem};

use crate::attr::{ProjectionArgs, names};
use crate::block::{self, Block};
use crate::errors::Errors;
use crate::model::aggregate::Aggregate;
use crate::model::command::Command;
use crate::model::event::Event;
use crate::model::projection::Projection;
use crate::model::sql::SqlProjection;
use crate::paths::emit;
use crate::source::{Names, Source};
use crate::twin::{self, Twin};
use crate::{attr, check, expand, fallback, normal};

pub(crate) fn event(written: &TokenStream) -> TokenStream {
    let mut input: DeriveInput = match syn::parse2(written.clone()) {
        Ok(input) => input,
        Err(_) => return unread(written, fallback::unread_event),
    };
    normal::input(&mut input);
    let errors = Errors::default();
    let model = Event::read(&input, &errors);
    check::event(&input, &model, &errors);
    match errors.into_tokens() {
        None => expand::event::expand(&model),
        Some(errors) => {
            let dummy = fallback::event(&input, &model);
            emit!(#errors #dummy)
        }
    }
}

pub(crate) fn command(written: &TokenStream) -> TokenStream {
    let mut input: DeriveInput = match syn::parse2(written.clone()) {
        Ok(input) => input,
        Err(_) => return unread(written, fallback::unread_command),
    };
    normal::input(&mut input);
    let errors = Errors::default();
    let model = Command::read(&input, &errors);
    check::command(&input, &model, &errors);
    match errors.into_tokens() {
        None if model.id_type().is_some() => expand::command::expand(&model),
        // rustc knows what is wrong, an attribute that is nearly `#[id]`.
        None => fallback::command(&input, &model),
        Some(errors) => {
            let dummy = fallback::command(&input, &model);
            emit!(#errors #dummy)
        }
    }
}

/// Expands a half-typed struct or enum: a placeholder for the event or the command of its name.
fn unread(input: &TokenStream, fallback: impl Fn(&Ident) -> TokenStream) -> TokenStream {
    let mut tokens = input.clone().into_iter();
    let is_keyword =
        |token: &TokenTree| matches!(token, TokenTree::Ident(word) if word == "struct" || word == "enum");
    let name = match (tokens.find(is_keyword), tokens.next(), tokens.next()) {
        (Some(_), Some(TokenTree::Ident(name)), next) => Some((name, next)),
        _ => None,
    };
    let span = name.as_ref().map_or_else(Span::call_site, |(name, _)| name.span());
    let is_generic = |next: &TokenTree| matches!(next, TokenTree::Punct(punct) if punct.as_char() == '<');
    let dummy =
        name.filter(|(_, next)| !next.as_ref().is_some_and(is_generic)).map(|(name, _)| fallback(&name));
    let guard = block::guard(span);
    emit!(#dummy #guard)
}

pub(crate) fn aggregate(args: TokenStream, item: &TokenStream) -> TokenStream {
    let block = match block(item, names::AGGREGATE) {
        Ok(block) => block,
        Err(refused) => return refused,
    };
    let errors = Errors::default();
    let fits = check::impl_block(&block.item, names::AGGREGATE, &errors);
    let mut model = Aggregate::read(args, &block, &errors);
    let source = Source::read();
    let names = Names::new(source.as_ref(), item);
    check::aggregate(&mut model, &names, &errors);
    let fits = fits && check::visible(model.ty, model.id.iter().chain(&model.error), &names, &errors);
    let is_complete = model.is_complete();
    let twin = source.as_ref().filter(|_| fits);
    let twin = twin.and_then(|source| twin::of(source, item, model.ty, names::AGGREGATE, is_complete));
    // What the others apply is not known.
    model.is_split = twin.is_some();
    model.knows_all_events &= twin.is_none();
    let generated = if !fits {
        fallback::aggregate(&model)
    } else if twin == Some(Twin::Later) {
        let name = attr::spelled(model.ty);
        errors.at(
            model.ty,
            format_args!(
                "`{name}` has an `#[aggregate]` block already: move these methods there, an aggregate is one block"
            ),
        );
        expand::aggregate::handlers(&model)
    } else {
        expand::aggregate::expand(&model)
    };
    finish(&block, item, &[names::HANDLE, names::APPLY], errors, &generated)
}

pub(crate) fn projection(args: TokenStream, item: &TokenStream) -> TokenStream {
    let block = match block(item, names::PROJECTION) {
        Ok(block) => block,
        Err(refused) => return refused,
    };
    let errors = Errors::default();
    let fits = check::impl_block(&block.item, names::PROJECTION, &errors);
    let mut args = ProjectionArgs::read(args, &errors);
    let source = Source::read();
    let names = Names::new(source.as_ref(), item);
    let twin = source.as_ref().filter(|_| fits);
    let twin = twin.and_then(|source| twin::of(source, item, &block.item.self_ty, names::PROJECTION, true));
    let generated = match args.sql.take() {
        _ if twin == Some(Twin::Later) => {
            let name = attr::spelled(&block.item.self_ty);
            errors.at(
                &block.item.self_ty,
                format_args!(
                    "`{name}` has a `#[projection]` block already: move these methods there, a projection is one block"
                ),
            );
            TokenStream::new()
        }
        Some(database) => {
            let mut model = SqlProjection::read(args, database, &block, &errors);
            check::sql_projection(&mut model, &names, &errors);
            if fits { expand::sql::expand(&model) } else { TokenStream::new() }
        }
        None if args.has_sql => TokenStream::new(),
        None => {
            let mut model = Projection::read(args, &block, &errors);
            check::projection(&mut model, &names, &errors);
            let fits = fits && check::visible(model.ty, &model.key, &names, &errors);
            if fits { expand::projection::expand(&model) } else { TokenStream::new() }
        }
    };
    finish(&block, item, &[names::ON, names::SETUP], errors, &generated)
}

/// The user's block, the mistakes, and what was made of the rest.
fn finish(
    block: &Block,
    written: &TokenStream,
    ours: &[&str],
    errors: Errors,
    generated: &TokenStream,
) -> TokenStream {
    let (empty, without_macros) = (errors.emptied(), errors.without_macros());
    let errors = errors.into_tokens();
    // The compiler refuses such a block as well.
    let is_ours = check::standard(&block.item.self_ty).is_none();
    let mut item = is_ours.then(|| block.item.clone());
    if let Some(item) = item.as_mut().filter(|_| without_macros) {
        item.items.retain(|item| !matches!(item, ImplItem::Macro(_)));
    }
    let item = item.map(|item| fallback::stripped(item, ours, &empty));
    let unread = block.unread(written);
    emit!(#item #errors #generated #unread)
}

/// The `impl` block that the attribute stands on, or what to emit instead.
fn block(item: &TokenStream, attribute: &str) -> Result<Block, TokenStream> {
    match block::read(item) {
        Ok(Some(block)) => Ok(block),
        Ok(None) => {
            let message =
                format!("`#[{attribute}]` goes on an `impl` block: move it to `impl … {{ … }}` of this type");
            let error = syn::Error::new(Span::call_site(), message).to_compile_error();
            Err(emit!(#item #error))
        }
        Err(error) => Err(error.to_compile_error()),
    }
}

#[cfg(test)]
mod tests {
    use proc_macro2::{Group, TokenStream, TokenTree};
    use quote::quote;

    use super::{aggregate, command, event, projection};

    /// What somebody has typed so far: each prefix of the tokens, with all groups closed.
    fn prefixes(tokens: TokenStream) -> Vec<TokenStream> {
        let mut all = vec![TokenStream::new()];
        let mut before = TokenStream::new();
        for token in tokens {
            if let TokenTree::Group(group) = &token {
                for inner in prefixes(group.stream()) {
                    let mut typed = before.clone();
                    typed.extend([TokenTree::Group(Group::new(group.delimiter(), inner))]);
                    all.push(typed);
                }
            }
            before.extend([token]);
            all.push(before.clone());
        }
        all
    }

    /// Whatever is typed, what comes out is Rust, be it `compile_error!`.
    #[track_caller]
    fn check(expand: impl Fn(TokenStream) -> TokenStream, typed: TokenStream) {
        for typed in prefixes(typed) {
            let expanded = expand(typed.clone());
            assert!(is_rust(expanded.clone()), "{typed}\nbecomes\n{expanded}");
        }
    }

    /// Whether it parses, up to a last block that the compiler has refused before.
    fn is_rust(expanded: TokenStream) -> bool {
        if syn::parse2::<syn::File>(expanded.clone()).is_ok() {
            return true;
        }
        let mut tokens: Vec<TokenTree> = expanded.into_iter().collect();
        let is_cfg = |token: &TokenTree| token.to_string() == "[cfg (any ())]";
        let Some(last) = tokens.iter().rposition(is_cfg) else { return false };
        tokens.truncate(last - 1);
        syn::parse2::<syn::File>(tokens.into_iter().collect()).is_ok()
    }

    #[test]
    fn survives_a_half_typed_event() {
        check(
            |item| event(&item),
            quote! {
                #[event(name = "opened", version = 3, from = Old, replaces(A<B, C>, D), codec = Json, crate = a::b)]
                #[event(upcast(f, g::h), upcast_bytes = a::b)]
                pub struct Opened { #[tag(name = "by")] owner: Option<String>, #[tag] at: u64 }
            },
        );
    }

    #[test]
    fn survives_a_half_typed_command() {
        check(
            |item| command(&item),
            quote! {
                #[command(name = "open", crate = a::b)]
                pub enum Open<T: Clone> where T: Send {
                    A { #[id] id: u64, #[expected_version] seen: Version },
                    B(#[id] u64, #[idempotency_key] T),
                }
            },
        );
    }

    fn account() -> TokenStream {
        quote! {
            impl Account {
                #[handle] async fn open(cmd: Open, at: &Context) -> Result<(Opened, Vec<Seen>), Error> { todo() }
                #[handle] fn close(old: Option<&Self>, cmd: &Close, to: &dyn Mailer) {}
                #[apply] fn opened(event: &Opened) -> Self { Self }
                #[apply] fn closed(&mut self, event: &a::Closed) {}
            }
        }
    }

    fn summary() -> TokenStream {
        quote! {
            impl Summary {
                #[on(key = [event.from, event.to])] fn opened(event: &Opened, meta: &EventMeta) -> Self { Self }
                #[on] fn closed(self, Closed { at, .. }: &a::Closed) -> Option<Self> { None }
            }
        }
    }

    #[test]
    fn survives_a_half_typed_aggregate() {
        check(|item| aggregate(quote!(id = u64, error = Error), &item), account());
        let args = quote!(id = a::Id<B, C>, error = Error, name = "a", events = Facts, snapshot = every(500, version = 2), rejection = Error::of, state_size = Account::bytes, crate = a::b);
        check(|args| aggregate(args, &account()), args);
    }

    #[test]
    fn survives_a_half_typed_projection() {
        check(|item| projection(quote!(name = "s", key = u64), &item), summary());
        let args = quote!(name = "a", key = a::Id<B, C>, mode = inline, fold_in_memory, crate = a::b);
        check(|args| projection(args, &summary()), args);
    }

    #[test]
    fn survives_a_half_typed_projection_with_its_own_sql() {
        let ledger = quote! {
            impl Ledger {
                #[setup] fn tables(tx: &Transaction<'_>) -> Result<(), Error> { Ok(()) }
                #[on] async fn opened(tx: &Transaction<'_>, e: &Opened, meta: &EventMeta) -> Result<(), Error> { Ok(()) }
            }
        };
        check(|item| projection(quote!(name = "s", sql = Sqlite), &item), ledger.clone());
        check(
            |args| projection(args, &ledger),
            quote!(name = "a", sql = a::Sqlite, mode = async, crate = a::b),
        );
    }
}
