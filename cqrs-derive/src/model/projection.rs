//! `#[projection]`.

use proc_macro2::Span;
use syn::{Expr, Ident, ImplItem, ImplItemFn, ItemImpl, Pat, PatType, Type};

use super::method::{Fold, Method};
use super::plain;
use crate::attr::{self, Mode, ProjectionArgs, names};
use crate::block::Block;
use crate::check;
use crate::errors::Errors;
use crate::hash;
use crate::paths::Krate;

/// An `impl` block of folds into documents.
pub(crate) struct Projection<'a> {
    pub(crate) ty: &'a Type,
    pub(crate) krate: Krate,
    pub(crate) key: Option<Type>,
    pub(crate) name: String,
    pub(crate) mode: Mode,
    pub(crate) fold_in_memory: bool,
    /// A hash of the code that makes documents or tables of events.
    pub(crate) fold: u64,
    pub(crate) folds: Vec<On<'a>>,
}

/// A method with `#[on]`.
pub(crate) struct On<'a> {
    pub(crate) method: &'a Ident,
    pub(crate) fold: Fold,
    pub(crate) event: &'a Type,
    pub(crate) event_pattern: &'a Pat,
    /// The parameter `meta: &EventMeta`, if it is there.
    pub(crate) meta: Option<&'a PatType>,
    /// The expression of `#[on(key = …)]`.
    pub(crate) key: Option<Expr>,
    /// Whether a mistake was found: then it only stands for its event.
    pub(crate) broken: bool,
}

impl<'a> Projection<'a> {
    pub(crate) fn read(args: ProjectionArgs, block: &'a Block, errors: &Errors) -> Self {
        let macro_call = block.macro_call();
        let whole = block;
        let Block { item: block, unfinished, .. } = block;
        let ident = check::type_ident(&block.self_ty);
        let missing = match (args.has_name, args.has_key) {
            (true, true) => None,
            (false, true) => Some("the name under which the store keeps it"),
            (true, false) => Some("the type that names one document"),
            (false, false) => Some("its name in the store, and the type that names one document"),
        };
        if let Some(what) = missing {
            let example = "`#[projection(name = \"…\", key = …)]`";
            errors.here(Span::call_site(), format_args!("`#[projection]` needs {what}: {example}"));
        }
        let mut model = Self {
            ty: &block.self_ty,
            krate: args.krate,
            key: args.key,
            name: args.name.map_or_else(|| plain(&ident), |name| name.value()),
            mode: args.mode.map_or(Mode::Async, |(mode, _)| mode),
            fold_in_memory: args.fold_in_memory.is_some(),
            fold: fold(block),
            folds: Vec::new(),
        };
        for item in &block.items {
            if let ImplItem::Fn(item) = item {
                model.folds.extend(On::read(item, model.ty, errors));
            }
        }
        model.folds.iter_mut().for_each(|on| on.broken |= whole.is_repeated(on.method));
        if let Some(call) = macro_call
            && model.folds.is_empty()
        {
            errors.unseen(call, names::PROJECTION, "`#[on]`");
        }
        let reported = Errors::default();
        let unfinished = unfinished.iter().filter_map(|item| On::read(item, model.ty, &reported));
        model.folds.extend(unfinished.map(|on| On { broken: true, key: None, ..on }));
        model
    }

    /// Whether each event belongs to the document of its stream's id.
    pub(crate) fn is_by_stream(&self) -> bool {
        self.folds.iter().all(|on| on.key.is_none())
    }

    /// Whether an `#[on]` can be the first.
    pub(crate) fn is_created(&self) -> bool {
        self.folds.iter().any(|on| on.fold.begins())
    }
}

/// A hash of what decides what becomes of events, as far as it stands in the block. In which order items are
/// written does not count.
pub(super) fn fold(block: &ItemImpl) -> u64 {
    let mut items: Vec<u64> = block.items.iter().map(hash::fold).collect();
    items.sort_unstable();
    hash::all(&items)
}

/// Reports what marks methods of aggregates.
pub(super) fn misplaced(item: &ImplItemFn, errors: &Errors) {
    for name in [names::HANDLE, names::APPLY] {
        attr::misplaced(&item.attrs, name, "it is for aggregates; here there is `#[on]`", errors);
    }
}

impl<'a> On<'a> {
    /// `None` if the method is not ours, or not even its event is known.
    fn read(item: &'a ImplItemFn, this: &'a Type, errors: &Errors) -> Option<Self> {
        let before = errors.count();
        misplaced(item, errors);
        let tables = "it prepares the tables of a projection with its own SQL, which `sql = …` makes of it";
        attr::misplaced(&item.attrs, names::SETUP, tables, errors);
        let key = match attr::single(&item.attrs, names::ON, errors) {
            Some(attr) => attr::on_key(attr, errors),
            None => {
                attr::not_on(&item.attrs, errors)?;
                None
            }
        };
        let method = Method::read(item, this);
        check::plain_signature(&method, names::ON, errors);
        let event = check::fold_event(&method, names::ON, errors);
        let fold = check::on_fold(&method, this, errors);
        let event = event?;
        Some(Self {
            method: &item.sig.ident,
            fold,
            event,
            event_pattern: &method.params.first()?.pat,
            meta: method.params.get(1).copied(),
            key: key.filter(|_| errors.count() == before),
            broken: errors.count() > before,
        })
    }
}
