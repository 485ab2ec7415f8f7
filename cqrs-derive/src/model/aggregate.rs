//! `#[aggregate]`.

use proc_macro2::TokenStream;
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, ExprPath, Ident, ImplItem, ImplItemFn, ItemImpl, LitStr, Type};

use super::method::{Fold, Method, argument_of};
use super::plain;
use crate::attr::{self, AggregateArgs, Snapshot, names};
use crate::block::Block;
use crate::check;
use crate::errors::Errors;
use crate::hash;
use crate::paths::Krate;

/// An `impl` block of handlers and folds.
pub(crate) struct Aggregate<'a> {
    pub(crate) ty: &'a Type,
    pub(crate) krate: Krate,
    pub(crate) id: Option<Type>,
    pub(crate) error: Option<Type>,
    /// True if `error` was written, also with a wrong value.
    pub(crate) has_error: bool,
    pub(crate) name: String,
    pub(crate) name_literal: Option<LitStr>,
    pub(crate) events: Ident,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) rejection: Option<ExprPath>,
    pub(crate) state_size: Option<ExprPath>,
    /// A hash of everything in the block that a fold may go through: all but the handlers.
    pub(crate) fold: u64,
    pub(crate) handlers: Vec<Handler<'a>>,
    pub(crate) applies: Vec<Apply<'a>>,
    /// Whether the event of each `#[apply]` could be read. If not, nothing is said about what handlers
    /// return.
    pub(crate) knows_all_events: bool,
    /// True if another block of this type was found, which may create it.
    pub(crate) is_split: bool,
}

/// What a handler needs to be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// No `self`: nothing may exist.
    Absent,
    /// `&self`.
    Existing,
    /// `Option<&Self>`.
    Either,
}

/// A method with `#[handle]`.
pub(crate) struct Handler<'a> {
    pub(crate) method: &'a Ident,
    pub(crate) needs: Needs,
    pub(crate) command: &'a Type,
    pub(crate) by_reference: bool,
    /// Context and services, each a reference.
    pub(crate) params: Vec<&'a Type>,
    pub(crate) is_async: bool,
    pub(crate) returns: Option<&'a Type>,
    /// Whether a mistake was found: then it only stands for its command.
    pub(crate) broken: bool,
}

/// A method with `#[apply]`.
pub(crate) struct Apply<'a> {
    pub(crate) method: &'a Ident,
    pub(crate) fold: Fold,
    pub(crate) event: &'a Type,
    pub(crate) variant: Ident,
    /// Whether a mistake was found: then it only stands for its event.
    pub(crate) broken: bool,
}

impl<'a> Aggregate<'a> {
    pub(crate) fn read(args: TokenStream, block: &'a Block, errors: &Errors) -> Self {
        let macro_call = block.macro_call();
        let whole = block;
        let Block { item: block, unfinished, .. } = block;
        let args = AggregateArgs::read(args, errors);
        let ident = check::type_ident(&block.self_ty);
        if args.name.is_none() {
            attr::long_ident(&ident, names::AGGREGATE, errors);
        }
        if !args.has_id {
            errors.here(
                proc_macro2::Span::call_site(),
                "`#[aggregate]` needs the type of the id: `#[aggregate(id = …)]`",
            );
        }
        let mut model = Self {
            ty: &block.self_ty,
            krate: args.krate,
            id: args.id,
            error: args.error,
            has_error: args.has_error,
            name: args.name.as_ref().map_or_else(|| plain(&ident), LitStr::value),
            name_literal: args.name,
            snapshot: args.snapshot,
            rejection: args.rejection,
            state_size: args.state_size,
            fold: folding(block),
            events: args
                .events
                .unwrap_or_else(|| quote::format_ident!("{}Event", plain(&ident), span = ident.span())),
            handlers: Vec::new(),
            applies: Vec::new(),
            knows_all_events: true,
            is_split: false,
        };
        for item in &block.items {
            if let ImplItem::Fn(item) = item {
                model.read_method(item, errors);
            }
        }
        model.handlers.iter_mut().for_each(|handler| handler.broken |= whole.is_repeated(handler.method));
        model.applies.iter_mut().for_each(|apply| apply.broken |= whole.is_repeated(apply.method));
        model.read_unfinished(unfinished);
        if let Some(call) = macro_call
            && model.applies.is_empty()
            && model.handlers.iter().all(Handler::has_events)
        {
            errors.unseen(call, names::AGGREGATE, "`#[handle]` and `#[apply]`");
            model.knows_all_events = false;
        }
        model
    }

    /// What the compiler reports stands for its commands and events, and for nothing else.
    fn read_unfinished(&mut self, methods: &'a [ImplItemFn]) {
        let (handlers, applies) = (self.handlers.len(), self.applies.len());
        let reported = Errors::default();
        methods.iter().for_each(|item| self.read_method(item, &reported));
        self.handlers.iter_mut().skip(handlers).for_each(|handler| handler.broken = true);
        self.applies.iter_mut().skip(applies).for_each(|apply| apply.broken = true);
    }

    fn read_method(&mut self, item: &'a ImplItemFn, errors: &Errors) {
        match role(&item.attrs, errors) {
            Some(Role::Handle) => self.handlers.extend(Handler::read(item, self.ty, errors)),
            Some(Role::Apply) => match Apply::read(item, self.ty, errors) {
                Some(apply) => self.applies.push(apply),
                None => self.knows_all_events = false,
            },
            None => {}
        }
    }

    /// The written name, if it has a `/`.
    pub(crate) fn slash_in_name(&self) -> Option<&LitStr> {
        self.name_literal.as_ref().filter(|name| name.value().contains('/'))
    }

    /// Whether an `#[apply]` can be the first.
    pub(crate) fn is_created(&self) -> bool {
        self.is_split || self.applies.iter().any(|apply| apply.fold.begins())
    }

    /// Returns whether it has handlers, and an `#[apply]` for all that they seem to return: else there may be
    /// another block.
    pub(crate) fn is_complete(&self) -> bool {
        let applied = |ident: &Ident| self.applies.iter().any(|apply| apply.variant == *ident);
        let error = self.error.as_ref().map(check::type_ident);
        let is_known = |ident: &Ident| {
            ["Result", "Option", "Vec", "Self"].iter().any(|known| ident == known)
                || Some(ident) == error.as_ref()
                || applied(ident)
        };
        !self.handlers.is_empty()
            && self
                .handlers
                .iter()
                .filter_map(|handler| handler.returns)
                .all(|ty| names_in(ty).iter().all(is_known))
    }

    /// Whether the state is there from the start.
    pub(crate) fn always_exists(&self) -> bool {
        !self.is_created() && self.handlers.iter().all(|handler| handler.needs == Needs::Existing)
    }
}

/// The last name of each path in a type.
fn names_in(ty: &Type) -> Vec<Ident> {
    struct Finder(Vec<Ident>);
    impl VisitMut for Finder {
        fn visit_type_path_mut(&mut self, path: &mut syn::TypePath) {
            self.0.extend(path.path.segments.last().map(|last| last.ident.clone()));
            visit_mut::visit_type_path_mut(self, path);
        }
    }
    let mut finder = Finder(Vec::new());
    finder.visit_type_mut(&mut ty.clone());
    finder.0
}

/// A hash of what decides how events are folded, as far as it stands in the block: every item but the
/// handlers, without their attributes, in whatever order.
fn folding(block: &ItemImpl) -> u64 {
    let decides = |item: &&ImplItem| match item {
        ImplItem::Fn(item) => !item.attrs.iter().any(|attr| attr.path().is_ident(names::HANDLE)),
        _ => true,
    };
    let mut items: Vec<u64> = block.items.iter().filter(decides).map(hash::item).collect();
    items.sort_unstable();
    hash::all(&items)
}

enum Role {
    Handle,
    Apply,
}

fn role(attrs: &[Attribute], errors: &Errors) -> Option<Role> {
    let handle = attr::single(attrs, names::HANDLE, errors);
    let apply = attr::single(attrs, names::APPLY, errors);
    attr::misplaced(
        attrs,
        names::ON,
        "it is for projections; here there are `#[handle]` and `#[apply]`",
        errors,
    );
    if let (Some(_), Some(apply)) = (handle, apply) {
        errors.at(apply.path(), "a method either decides or folds: leave `#[handle]` or `#[apply]` out");
    }
    if let Some(attr) = handle {
        attr::no_arguments(attr, names::HANDLE, errors);
        return Some(Role::Handle);
    }
    if let Some(attr) = apply {
        attr::no_arguments(attr, names::APPLY, errors);
        return Some(Role::Apply);
    }
    for (name, role) in [(names::HANDLE, Role::Handle), (names::APPLY, Role::Apply)] {
        if let Some(attr) = attr::nearly(attrs, name) {
            errors.at(attr.path(), format_args!("no such attribute: did you mean `#[{name}]`?"));
            return Some(role);
        }
        if let Some(attr) = attr::conditional(attrs, name) {
            attr::refuse_conditional(attr, name, names::AGGREGATE, errors);
            return Some(role);
        }
    }
    None
}

impl<'a> Handler<'a> {
    /// Whether it returns more than nothing.
    fn has_events(&self) -> bool {
        let events = self.returns.map(|ty| argument_of(ty, "Result").unwrap_or(ty));
        events.is_some_and(|ty| !check::is_unit(ty))
    }

    /// `None` if not even the command is known.
    fn read(item: &'a ImplItemFn, this: &'a Type, errors: &Errors) -> Option<Self> {
        let before = errors.count();
        let method = Method::read(item, this);
        let needs = check::handler_needs(&method, errors);
        let command = check::handler_command(&method, errors)?;
        let params = check::handler_params(&method, errors);
        check::plain_signature(&method, names::HANDLE, errors);
        let (command, by_reference) = command;
        Some(Self {
            method: &item.sig.ident,
            needs,
            command,
            by_reference,
            params,
            is_async: item.sig.asyncness.is_some(),
            returns: method.returns(),
            broken: errors.count() > before,
        })
    }
}

impl<'a> Apply<'a> {
    /// `None` if not even the event is known.
    fn read(item: &'a ImplItemFn, this: &'a Type, errors: &Errors) -> Option<Self> {
        let before = errors.count();
        let method = Method::read(item, this);
        check::plain_signature(&method, names::APPLY, errors);
        let event = check::fold_event(&method, names::APPLY, errors);
        let fold = check::apply_fold(&method, this, errors);
        let event = event?;
        Some(Self {
            method: &item.sig.ident,
            fold,
            event,
            variant: check::type_ident(event),
            broken: errors.count() > before,
        })
    }
}
