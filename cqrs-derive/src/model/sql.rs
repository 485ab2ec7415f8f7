//! `#[projection(sql = …)]`.

use proc_macro2::Span;
use syn::{Ident, ImplItem, ImplItemFn, PatType, Type};

use super::method::Method;
use super::plain;
use super::projection::{fold, misplaced};
use crate::attr::{self, Mode, ProjectionArgs, names};
use crate::block::Block;
use crate::check;
use crate::errors::Errors;
use crate::paths::Krate;

/// An `impl` block of statements for events.
pub(crate) struct SqlProjection<'a> {
    pub(crate) ty: &'a Type,
    pub(crate) krate: Krate,
    pub(crate) name: String,
    pub(crate) mode: Mode,
    /// A hash of the code that makes documents or tables of events.
    pub(crate) fold: u64,
    pub(crate) database: Type,
    pub(crate) setup: Option<Setup<'a>>,
    pub(crate) handlers: Vec<Writes<'a>>,
}

/// The method with `#[setup]`.
pub(crate) struct Setup<'a> {
    pub(crate) method: &'a Ident,
    pub(crate) transaction: &'a PatType,
    pub(crate) returns: Option<&'a Type>,
    pub(crate) is_async: bool,
}

/// A method with `#[on]`.
pub(crate) struct Writes<'a> {
    pub(crate) method: &'a Ident,
    pub(crate) transaction: &'a PatType,
    pub(crate) event: &'a Type,
    /// The parameter `meta: &EventMeta`, if it is there.
    pub(crate) meta: Option<&'a PatType>,
    pub(crate) returns: Option<&'a Type>,
    pub(crate) is_async: bool,
    /// Whether a mistake was found: then it only stands for its event.
    pub(crate) broken: bool,
}

impl<'a> SqlProjection<'a> {
    pub(crate) fn read(args: ProjectionArgs, database: Type, block: &'a Block, errors: &Errors) -> Self {
        let macro_call = block.macro_call();
        let whole = block;
        let Block { item: block, unfinished, .. } = block;
        let ident = check::type_ident(&block.self_ty);
        if !args.has_name {
            let what = "the name of its checkpoint in the store: `#[projection(name = \"…\", sql = …)]`";
            errors.here(Span::call_site(), format_args!("`#[projection]` needs {what}"));
        }
        if let Some(key) = &args.key_word {
            errors.at(
                key,
                "a projection with its own SQL keeps tables, and no documents that a key would name: leave `key` out",
            );
        }
        if let Some(word) = &args.fold_in_memory {
            errors.at(
                word,
                "a projection with its own SQL keeps tables, and no documents that could be folded in memory: leave `fold_in_memory` out",
            );
        }
        if let Some((Mode::Live, word)) = &args.mode {
            errors.at(
                word,
                "a `live` projection keeps nothing, and this one keeps tables: write `async` or `inline`",
            );
        }
        let mut model = Self {
            ty: &block.self_ty,
            krate: args.krate,
            name: args.name.map_or_else(|| plain(&ident), |name| name.value()),
            mode: args.mode.map_or(Mode::Async, |(mode, _)| mode),
            fold: fold(block),
            database,
            setup: None,
            handlers: Vec::new(),
        };
        for item in &block.items {
            if let ImplItem::Fn(item) = item {
                model.read_method(item, errors);
            }
        }
        model.handlers.iter_mut().for_each(|writes| writes.broken |= whole.is_repeated(writes.method));
        if let Some(call) = macro_call
            && model.handlers.is_empty()
        {
            errors.unseen(call, names::PROJECTION, "`#[on]`");
        }
        let reported = Errors::default();
        let unfinished = unfinished.iter().filter_map(|item| Writes::read(item, model.ty, &reported));
        model.handlers.extend(unfinished.map(|writes| Writes { broken: true, ..writes }));
        model
    }

    fn read_method(&mut self, item: &'a ImplItemFn, errors: &Errors) {
        misplaced(item, errors);
        if let Some(attr) = attr::single(&item.attrs, names::SETUP, errors) {
            attr::no_arguments(attr, names::SETUP, errors);
            if self.setup.is_some() {
                errors.at(attr.path(), "there is a `#[setup]` already: prepare all tables in one place");
            } else {
                self.setup = Setup::read(item, self.ty, errors);
            }
            return;
        }
        self.handlers.extend(Writes::read(item, self.ty, errors));
    }
}

impl<'a> Setup<'a> {
    fn read(item: &'a ImplItemFn, this: &'a Type, errors: &Errors) -> Option<Self> {
        let before = errors.count();
        let method = Method::read(item, this);
        check::statements_signature(&method, names::SETUP, errors);
        for extra in method.params.iter().skip(1) {
            errors.at(
                extra,
                "a method with `#[setup]` takes the transaction and no more: no event has happened yet",
            );
        }
        let transaction = check::transaction(&method, names::SETUP, errors)?;
        let is_async = item.sig.asyncness.is_some();
        (errors.count() == before).then_some(Self {
            method: &item.sig.ident,
            transaction,
            returns: method.returns(),
            is_async,
        })
    }
}

impl<'a> Writes<'a> {
    /// `None` if the method is not ours, or not even its event is known.
    fn read(item: &'a ImplItemFn, this: &'a Type, errors: &Errors) -> Option<Self> {
        let before = errors.count();
        match attr::single(&item.attrs, names::ON, errors) {
            Some(attr) => attr::no_key(attr, errors),
            None => {
                attr::not_on(&item.attrs, errors)?;
            }
        }
        let mut method = Method::read(item, this);
        check::statements_signature(&method, names::ON, errors);
        check::transaction_first(&mut method, errors);
        let transaction = check::transaction(&method, names::ON, errors)?;
        method.params.remove(0);
        let event = check::fold_event(&method, names::ON, errors)?;
        Some(Self {
            method: &item.sig.ident,
            transaction,
            event,
            meta: method.params.get(1).copied(),
            returns: method.returns(),
            is_async: item.sig.asyncness.is_some(),
            broken: errors.count() > before,
        })
    }
}
