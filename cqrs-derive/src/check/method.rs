//! Receivers, parameters and return types of marked methods.

use syn::{GenericParam, Pat, PatType, Safety, Type};

use crate::attr::{names, spelled};
use crate::errors::Errors;
use crate::model::aggregate::Needs;
use crate::model::method::{Fold, Method, Takes, argument_of, is_self};

/// No generics, no `unsafe`, no `cfg`; a fold is not `async` either.
pub(crate) fn plain_signature(method: &Method<'_>, attribute: &str, errors: &Errors) {
    signature(method, attribute, errors);
    if let (Some(token), false) = (&method.item.sig.asyncness, attribute == names::HANDLE) {
        errors.at(
            token,
            format_args!(
                "a method with `#[{attribute}]` cannot be `async`: it only folds an event into what is there"
            ),
        );
    }
}

/// As [`plain_signature`], but it may be `async`, and has no `self`.
pub(crate) fn statements_signature(method: &Method<'_>, attribute: &str, errors: &Errors) {
    signature(method, attribute, errors);
    const NO_STATE: &str = "a projection with its own SQL has no state but its tables: take `self` off";
    match &method.takes {
        Takes::Nothing => {}
        Takes::Shared(receiver)
        | Takes::Mutable(receiver)
        | Takes::Owned(receiver)
        | Takes::Other(receiver) => {
            errors.at(receiver, NO_STATE);
        }
        Takes::MaybeOwned(param) | Takes::Aliased(param) => errors.at(param, NO_STATE),
        Takes::MaybeShared => errors.at(method.item.sig.inputs.first(), NO_STATE),
    }
}

/// The first parameter: a reference to the transaction.
pub(crate) fn transaction<'a>(method: &Method<'a>, attribute: &str, errors: &Errors) -> Option<&'a PatType> {
    match method.params.first() {
        Some(param) if matches!(&*param.ty, Type::Reference(reference) if reference.mutability.is_none()) => {
            Some(param)
        }
        Some(param) => {
            let fix = "expected the transaction here that the statements run in: `tx: &Transaction<'_>`";
            errors.at(&param.ty, fix);
            None
        }
        None => {
            let text = format_args!(
                "a method with `#[{attribute}]` takes the transaction that its statements run in: add a parameter `tx: &Transaction<'_>`"
            );
            errors.at(&method.item.sig.ident, text);
            None
        }
    }
}

/// Reports a transaction that does not come first, and moves it there.
pub(crate) fn transaction_first(method: &mut Method<'_>, errors: &Errors) {
    const NAME: &str = "Transaction";
    let at = method.params.iter().position(|param| is_named(&param.ty, NAME));
    if let Some(at @ 1..) = at {
        let transaction = method.params.remove(at);
        if let Some(first) = method.params.first() {
            errors.at(
                first,
                format_args!("the transaction comes first: move `{}` before this one", spelled(transaction)),
            );
        }
        method.params.insert(0, transaction);
    }
}

fn signature(method: &Method<'_>, attribute: &str, errors: &Errors) {
    let sig = &method.item.sig;
    let handles = attribute == names::HANDLE;
    for param in &sig.generics.params {
        match param {
            GenericParam::Lifetime(lifetime) => errors.at(
                &lifetime.lifetime,
                format_args!("a method with `#[{attribute}]` needs no named lifetimes: leave them out"),
            ),
            _ => errors.at(
                param,
                format_args!(
                    "a method with `#[{attribute}]` cannot be generic: its {} must be one type",
                    if handles { "command" } else { "event" }
                ),
            ),
        }
    }
    if let Safety::Unsafe(token) = &sig.safety {
        errors.at(
            token,
            format_args!("a method with `#[{attribute}]` cannot be `unsafe`: the engine calls it"),
        );
    }
    for attr in method.item.attrs.iter().filter(|attr| attr.path().is_ident("cfg")) {
        errors.at(
            attr.path(),
            format_args!("`#[cfg]` has no effect on what is generated for `#[{attribute}]`: put it into the method's body, or write the whole block twice, each under a `#[cfg]`"),
        );
    }
}

/// `fn(cmd)`, `fn(&self, cmd)`, `fn(state: Option<&Self>, cmd)`.
pub(crate) fn handler_needs(method: &Method<'_>, errors: &Errors) -> Needs {
    const FIX: &str = "a handler decides and changes nothing: take `&self`, return events, and change the state in `#[apply]`";
    match &method.takes {
        Takes::Nothing => Needs::Absent,
        Takes::Shared(_) => Needs::Existing,
        Takes::MaybeShared => Needs::Either,
        Takes::Mutable(receiver) | Takes::Owned(receiver) => {
            errors.at(receiver, FIX);
            Needs::Existing
        }
        Takes::Other(receiver) => {
            errors.at(receiver, "write the receiver of a handler as `&self`");
            Needs::Existing
        }
        Takes::MaybeOwned(param) => {
            errors.at(&param.ty, "a handler only looks at the state: write `Option<&Self>`");
            Needs::Either
        }
        Takes::Aliased(param) => {
            errors
                .at(&param.ty, "the state that may exist is written out, without an alias: `Option<&Self>`");
            Needs::Either
        }
    }
}

/// The parameter that is the command: the first, or, with a message, the one that has to move there.
fn command_param<'m, 'a>(method: &'m Method<'a>, errors: &Errors) -> Option<(usize, &'m &'a PatType)> {
    let (first, rest) = method.params.split_first()?;
    let is_other = |param: &&PatType| match &*param.ty {
        ty if is_named(ty, "Context") => true,
        Type::Reference(reference) => matches!(&*reference.elem, Type::TraitObject(_) | Type::ImplTrait(_)),
        ty => matches!(ty, Type::ImplTrait(_)) || shared(ty).is_some(),
    };
    // Of two types that may be both, only the name of the parameter tells which is the command.
    let by_value = |param: &&PatType| matches!(&*param.ty, Type::Path(_)) && shared(&param.ty).is_none();
    let named = |param: &&PatType| matches!(&*param.pat, Pat::Ident(name) if name.ident == "cmd" || name.ident == "command");
    let later = if is_other(first) {
        let may_be = |param: &&PatType| !is_other(param);
        rest.iter()
            .position(|param| by_value(param) && may_be(param))
            .or_else(|| rest.iter().position(may_be))
    } else if named(first) {
        None
    } else {
        rest.iter().position(named)
    };
    let Some(later) = later else {
        if is_other(first) {
            errors.at(first, "a handler takes its command first: add a parameter `cmd: …` before this one");
            return None;
        }
        return Some((0, &method.params[0]));
    };
    let command = &rest[later];
    errors.at(
        first,
        format_args!("a handler takes its command first: move `{}` before this one", spelled(command)),
    );
    Some((later + 1, command))
}

/// Whether it is a type of this name, or a reference to one.
fn is_named(ty: &Type, name: &str) -> bool {
    match ty {
        Type::Reference(reference) => is_named(&reference.elem, name),
        Type::Path(path) => path.path.segments.last().is_some_and(|last| last.ident == name),
        _ => false,
    }
}

/// The `T` of `Arc<T>` and the like: services are shared by the engine.
fn shared(ty: &Type) -> Option<&Type> {
    ["Arc", "Rc"].iter().find_map(|pointer| argument_of(ty, pointer))
}

/// The command and whether it is taken by reference.
pub(crate) fn handler_command<'a>(method: &Method<'a>, errors: &Errors) -> Option<(&'a Type, bool)> {
    if method.params.is_empty() {
        errors.at(
            &method.item.sig.ident,
            "a handler takes the command that it handles: add a parameter `cmd: …`",
        );
        return None;
    }
    let (_, param) = command_param(method, errors)?;
    match &*param.ty {
        Type::Reference(reference) => {
            if let Some(token) = &reference.mutability {
                errors.at(token, "a handler cannot change its command: take it by value");
            }
            match &*reference.elem {
                Type::Path(_) => Some((&reference.elem, true)),
                other => refuse_command(other, errors),
            }
        }
        Type::Path(_) => Some((&param.ty, false)),
        other => refuse_command(other, errors),
    }
}

fn refuse_command<'a>(ty: &Type, errors: &Errors) -> Option<(&'a Type, bool)> {
    errors.at(ty, "expected the command here: the name of a type that derives `Command`");
    None
}

/// After the command: references to the context and to services.
pub(crate) fn handler_params<'a>(method: &Method<'a>, errors: &Errors) -> Vec<&'a Type> {
    const WHAT: &str = "after its command a handler takes references, to the context or to a service";
    let check = |param: &&'a PatType| {
        let (ty, mutable) = match &*param.ty {
            Type::Reference(reference) => (&*reference.elem, reference.mutability.as_ref()),
            ty => (ty, None),
        };
        if let Some(token) = mutable {
            errors.at(token, "a handler shares its services with others: take `&`, not `&mut`");
            return None;
        }
        let by_reference = matches!(&*param.ty, Type::Reference(_));
        let wanted = match ty {
            Type::ImplTrait(object) => {
                let bounds = spelled(&object.bounds);
                let bounds = if object.bounds.len() > 1 { format!("({bounds})") } else { bounds };
                format!("&dyn {bounds}")
            }
            ty => match shared(ty) {
                Some(inner) => format!("&{}", spelled(inner)),
                None if by_reference => return Some(&*param.ty),
                None => format!("&{}", spelled(ty)),
            },
        };
        errors.at(&param.ty, format_args!("{WHAT}: write `{wanted}`"));
        None
    };
    let silent = Errors::default();
    let command = command_param(method, &silent).map_or(0, |(at, _)| at);
    let others = method.params.iter().enumerate().filter(|(at, _)| *at != command);
    others.filter_map(|(_, param)| check(param)).collect()
}

/// The `E` of the parameter `e: &E`.
pub(crate) fn fold_event<'a>(method: &Method<'a>, attribute: &str, errors: &Errors) -> Option<&'a Type> {
    let Some((param, rest)) = event_param(method, errors) else {
        errors.at(
            &method.item.sig.ident,
            format_args!("a method with `#[{attribute}]` takes the event: add a parameter `event: &…`"),
        );
        return None;
    };
    let event = match &*param.ty {
        Type::Reference(reference) if reference.mutability.is_none() => &*reference.elem,
        Type::Reference(reference) => {
            errors
                .at(reference.mutability, "an event has happened, nothing changes it: take `&`, not `&mut`");
            &reference.elem
        }
        ty @ Type::Path(_) => {
            let fix = spelled(ty);
            errors.at(ty, format_args!("the event is only looked at: write `&{fix}`"));
            ty
        }
        ty => ty,
    };
    if !matches!(event, Type::Path(_)) {
        errors.at(event, "expected the event here: the name of a type that derives `Event`");
        return None;
    }
    let allowed = usize::from(attribute == names::ON);
    for extra in rest.into_iter().skip(allowed) {
        let what = match attribute {
            names::ON => "besides the event, a method with `#[on]` takes `meta: &EventMeta` and no more",
            _ => "a method with `#[apply]` takes the event and no more: put what it needs into the event",
        };
        errors.at(extra, what);
    }
    Some(event)
}

/// The parameter that is the event, and the others: it is the first, unless what belongs to it comes before.
fn event_param<'a>(method: &Method<'a>, errors: &Errors) -> Option<(&'a PatType, Vec<&'a PatType>)> {
    let (first, rest) = method.params.split_first()?;
    if is_named(&first.ty, "EventMeta")
        && let Some((event, rest)) = rest.split_first()
    {
        errors.at(first, format_args!("the event comes first: move `{}` before this one", spelled(event)));
        return Some((event, rest.to_vec()));
    }
    Some((first, rest.to_vec()))
}

/// `fn(e) -> Self`, `fn(&mut self, e)`, `fn(state: Option<&Self> | Option<Self>, e) -> Self`.
pub(crate) fn apply_fold(method: &Method<'_>, this: &Type, errors: &Errors) -> Fold {
    let fold = match &method.takes {
        Takes::Nothing => Fold::Creates,
        Takes::Mutable(_) => Fold::Changes,
        Takes::MaybeShared => Fold::MaybeShared,
        Takes::MaybeOwned(_) => Fold::MaybeOwned,
        Takes::Aliased(param) => {
            errors.at(
                &param.ty,
                "the state that may exist is written out, without an alias: `Option<&Self>` or `Option<Self>`",
            );
            return Fold::MaybeOwned;
        }
        Takes::Shared(receiver) => {
            errors.at(
                receiver,
                "a method with `#[apply]` changes the state: take `&mut self`, or no `self` to create it",
            );
            return Fold::Changes;
        }
        Takes::Owned(receiver) | Takes::Other(receiver) => {
            errors
                .at(receiver, "a method with `#[apply]` takes `&mut self`, or no `self` to create the state");
            return Fold::Changes;
        }
    };
    check_return(method, fold, this, false, errors);
    fold
}

/// As [`apply_fold`]; also `fn(self, e) -> Option<Self>`.
pub(crate) fn on_fold(method: &Method<'_>, this: &Type, errors: &Errors) -> Fold {
    let fold = match &method.takes {
        Takes::Nothing => Fold::Creates,
        Takes::Mutable(_) => Fold::Changes,
        Takes::Owned(_) => Fold::Consumes,
        Takes::MaybeShared => Fold::MaybeShared,
        Takes::MaybeOwned(_) => Fold::MaybeOwned,
        Takes::Aliased(param) => {
            errors.at(
                &param.ty,
                "the state that may exist is written out, without an alias: `Option<&Self>` or `Option<Self>`",
            );
            return Fold::MaybeOwned;
        }
        Takes::Shared(receiver) | Takes::Other(receiver) => {
            errors.at(
                receiver,
                "a method with `#[on]` takes `&mut self` to change the document, `self` to give what it becomes, or no `self` to create it",
            );
            return Fold::Changes;
        }
    };
    check_return(method, fold, this, true, errors);
    fold
}

/// What a fold gives: nothing if it changes in place, else `Self`; documents may also be deleted.
fn check_return(method: &Method<'_>, fold: Fold, this: &Type, deletes: bool, errors: &Errors) {
    let returns = method.returns();
    let gives = returns.is_some_and(|ty| is_self(ty, this));
    let may_give = returns.and_then(|ty| argument_of(ty, "Option")).is_some_and(|ty| is_self(ty, this));
    let (fine, what) = match fold {
        Fold::Changes => (
            returns.is_none_or(is_unit),
            "with `&mut self` the method changes what is there: let it return nothing",
        ),
        Fold::Creates => (gives, "without `self` the method creates: let it return `Self`"),
        Fold::Consumes => (
            may_give,
            "with `self` the method says what becomes of the document: let it return `Option<Self>`, `None` deletes it",
        ),
        Fold::MaybeShared | Fold::MaybeOwned if deletes => (
            gives || may_give,
            "the method says what becomes of the document: let it return `Self`, or `Option<Self>` where `None` deletes it",
        ),
        Fold::MaybeShared | Fold::MaybeOwned => {
            (gives, "the method says what the state becomes: let it return `Self`")
        }
    };
    if !fine {
        match returns {
            Some(ty) => errors.at(ty, what),
            None => errors.at(&method.item.sig.ident, what),
        }
    }
}

pub(crate) fn is_unit(ty: &Type) -> bool {
    matches!(ty, Type::Tuple(tuple) if tuple.elems.is_empty())
}
