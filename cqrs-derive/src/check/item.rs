//! Rules about a whole item.

use syn::{Data, DeriveInput, GenericParam, Generics, ItemImpl, Type};

use super::type_ident;
use crate::attr::spelled;
use crate::errors::Errors;
use crate::model::aggregate::Aggregate;
use crate::model::command::Command;
use crate::model::event::Event;
use crate::model::plain;
use crate::model::projection::Projection;
use crate::model::sql::SqlProjection;

/// An event is a struct without generics, and every version has one way to the next.
pub(crate) fn event(input: &DeriveInput, event: &Event<'_>, errors: &Errors) {
    match &input.data {
        Data::Struct(_) => {}
        Data::Enum(data) => errors.at(
            data.enum_token,
            "an event is one fact, a struct: make each variant a struct of its own, `#[aggregate]` generates the enum of them",
        ),
        Data::Union(data) => errors.at(data.union_token, "an event is a struct: a union cannot be stored"),
    }
    for param in &event.generics.params {
        let what = match param {
            GenericParam::Lifetime(_) => {
                "an event owns its data, since it is read back from the log: use `String` and not `&str`"
            }
            _ => "an event is stored under one name, so it is one type: it cannot be generic",
        };
        errors.at(param, what);
    }
    event_history(event, errors);
}

fn event_history(event: &Event<'_>, errors: &Errors) {
    let name = plain(event.ident);
    let version = event.version;
    let is_self = |ty: &Type| matches!(ty, Type::Path(path) if path.path.is_ident("Self") || path.path.is_ident(event.ident));
    for old in event.from.iter().chain(&event.replaces).filter(|old| is_self(old)) {
        errors
            .at(old, format_args!("`{name}` cannot come from itself: name the type that was stored before"));
    }
    if let (Some(_), Some(steps)) = (&event.from, &event.upcast) {
        errors.at(
            &steps.keyword,
            "`from` and `upcast` are two ways from the same version: leave one of them out",
        );
    } else if let (Some(from), 1) = (&event.from, version) {
        if !is_self(from) {
            errors.at(
                from,
                format_args!(
                    "`{name}` is at version 1, the first: there is nothing before it; write `version = 2`"
                ),
            );
        }
    } else if let (Some(steps), Some(_)) = (&event.upcast, &event.codec) {
        errors.at(
            &steps.keyword,
            "`upcast` works on JSON, but `codec` stores something else: use `from = …` with the type it was",
        );
    } else if let Some(steps) = &event.upcast {
        let (have, need) = (steps.functions.len(), version as usize - 1);
        if have != need {
            errors.at(
                &steps.keyword,
                format_args!(
                    "`upcast` has one function for each former version, so version {version} needs {need}, but there are {have}"
                ),
            );
        }
    } else if version > 1 && !event.has_way {
        errors.here(
            event.version_span(),
            format_args!(
                "version {version} of `{name}` has no way from version {}: add `from = …` with the type it was, or `upcast(…)` with functions on the JSON",
                version - 1
            ),
        );
    }
}

/// A command owns its data, and routes by one type of id.
pub(crate) fn command(input: &DeriveInput, command: &Command<'_>, errors: &Errors) {
    if let Data::Union(data) = &input.data {
        errors.at(data.union_token, "a command is a struct or an enum");
    }
    if let Data::Enum(data) = &input.data
        && data.variants.is_empty()
    {
        errors.at(command.ident, "a command without variants can never be sent: add one");
    }
    for param in &command.generics.params {
        if let GenericParam::Lifetime(lifetime) = param {
            errors.at(
                &lifetime.lifetime,
                "a command owns its data, since it may wait and be tried again: use `String` and not `&str`",
            );
        }
    }
    let Some(first) = command.id_type() else { return };
    for id in command.cases.iter().filter_map(|case| case.id.as_ref()).filter(|id| id.ty != first) {
        errors.at(
            id.ty,
            format_args!(
                "all variants go to one aggregate, so they have one type of id: it is `{}` in the first",
                spelled(first)
            ),
        );
    }
}

/// The block is a plain `impl Type { … }`. Reports and answers `false` if not.
pub(crate) fn impl_block(block: &ItemImpl, attribute: &str, errors: &Errors) -> bool {
    let before = errors.count();
    if let Some((path, _)) = &block.trait_ {
        errors.at(
            path,
            format_args!("`#[{attribute}]` goes on an `impl` block of the type itself, not of a trait"),
        );
    }
    refuse_generics(&block.generics, attribute, errors);
    if !matches!(&*block.self_ty, Type::Path(path) if path.qself.is_none()) {
        errors.at(
            &block.self_ty,
            format_args!("`#[{attribute}]` goes on the `impl` block of a struct or an enum"),
        );
    }
    errors.count() == before
}

fn refuse_generics(generics: &Generics, attribute: &str, errors: &Errors) {
    for param in &generics.params {
        errors.at(param, format_args!("`#[{attribute}]` names and registers one type: it cannot be generic"));
    }
}

/// One handler per command, one fold and one variant per event.
pub(crate) fn aggregate(model: &mut Aggregate<'_>, errors: &Errors) {
    if let Some(name) = model.slash_in_name() {
        errors.at(
            name,
            "the name of an aggregate stands before the `/` in the names of its streams: it cannot have one",
        );
    }
    if let (Some(rejection), None) = (&model.rejection, &model.error) {
        errors.at(
            rejection,
            "`rejection` gives the error of the aggregate, which has none: add `error = …` with its type",
        );
    }
    let mut commands: Vec<&Type> = Vec::new();
    model.handlers.retain(|handler| {
        let again = commands.contains(&handler.command);
        if again {
            let name = spelled(handler.command);
            errors.at(
                handler.command,
                format_args!("`{name}` has a `#[handle]` already: a command has one handler"),
            );
        }
        commands.push(handler.command);
        !again
    });
    let this = plain(&type_ident(model.ty));
    let mut events: Vec<(&Type, String)> = Vec::new();
    model.applies.retain(|apply| {
        let variant = plain(&apply.variant);
        let clash = events.iter().find(|(_, other)| *other == variant);
        if let Some((other, _)) = clash {
            refuse_twice(apply.event, other, "apply", &format!("`{this}`"), errors);
            return false;
        }
        events.push((apply.event, variant));
        true
    });
}

/// One fold per event.
pub(crate) fn projection(model: &mut Projection<'_>, errors: &Errors) {
    let mut events = Events::of(model.ty);
    model.folds.retain(|on| events.is_new(on.event, errors));
}

/// One method per event.
pub(crate) fn sql_projection(model: &mut SqlProjection<'_>, errors: &Errors) {
    let mut events = Events::of(model.ty);
    model.handlers.retain(|writes| events.is_new(writes.event, errors));
}

/// The events of a projection so far.
struct Events<'a> {
    this: String,
    seen: Vec<&'a Type>,
}

impl<'a> Events<'a> {
    fn of(this: &Type) -> Self {
        Self { this: format!("`{}`", plain(&type_ident(this))), seen: Vec::new() }
    }

    fn is_new(&mut self, event: &'a Type, errors: &Errors) -> bool {
        let Some(other) = self.seen.iter().find(|other| **other == event) else {
            self.seen.push(event);
            return true;
        };
        refuse_twice(event, other, "on", &self.this, errors);
        false
    }
}

fn refuse_twice(event: &Type, other: &Type, attribute: &str, this: &str, errors: &Errors) {
    let name = spelled(event);
    if event == other {
        errors.at(
            event,
            format_args!("`{name}` has an `#[{attribute}]` already: {this} folds an event in one place"),
        );
    } else {
        let other = spelled(other);
        let last = type_ident(event);
        errors.at(
            event,
            format_args!(
                "two events of {this} are called `{last}`, this one and `{other}`: import one under another name, `use … as …`"
            ),
        );
    }
}
