//! Rules about a whole item.

use syn::visit_mut::VisitMut;
use syn::{
    Attribute, Data, DeriveInput, GenericArgument, GenericParam, Generics, ItemImpl, PathArguments, Type,
    TypeReference,
};

use super::type_ident;
use crate::attr::spelled;
use crate::errors::Errors;
use crate::model::aggregate::{Aggregate, Apply, Handler};
use crate::model::command::Command;
use crate::model::event::Event;
use crate::model::method::argument_of;
use crate::model::plain;
use crate::model::projection::Projection;
use crate::model::sql::SqlProjection;
use crate::source::Names;

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
    for field in borrowed_fields(input) {
        errors.at(field, OWNED);
    }
    for param in &event.generics.params {
        let what = match param {
            GenericParam::Lifetime(_) => OWNED,
            _ => "an event is stored under one name, so it is one type: it cannot be generic",
        };
        errors.at(param, what);
    }
    event_history(event, errors);
}

const OWNED: &str = "an event owns its data, since it is read back from the log: use `String` and not `&str`";

/// The references among the fields' types that serde is to read.
pub(crate) fn borrowed_fields(input: &DeriveInput) -> Vec<TypeReference> {
    struct Finder(Vec<TypeReference>);
    impl VisitMut for Finder {
        fn visit_type_reference_mut(&mut self, found: &mut TypeReference) {
            self.0.push(found.clone());
        }
        // `PhantomData<fn(&str)>` borrows nothing.
        fn visit_type_fn_ptr_mut(&mut self, _: &mut syn::TypeFnPtr) {}
    }
    let mut finder = Finder(Vec::new());
    let Data::Struct(data) = &input.data else { return finder.0 };
    // With a lifetime of its own, it is that which is reported; with an attribute, serde may do otherwise.
    let otherwise = |attrs: &[Attribute]| {
        attrs.iter().filter(|attr| attr.path().is_ident("serde")).any(|attr| {
            let text = spelled(&attr.meta);
            ["skip", "with", "from", "remote", "getter"].iter().any(|word| text.contains(word))
        })
    };
    if input.generics.lifetimes().next().is_some() || otherwise(&input.attrs) {
        return finder.0;
    }
    for field in data.fields.iter().filter(|field| !otherwise(&field.attrs)) {
        finder.visit_type_mut(&mut field.ty.clone());
    }
    finder.0
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
    if let Some(name) = standard(&block.self_ty) {
        errors.at(
            &block.self_ty,
            format_args!(
                "`#[{attribute}]` goes on a type of this crate, and `{name}` is not: wrap it, `struct …({});`",
                spelled(&block.self_ty)
            ),
        );
    }
    if !matches!(&*block.self_ty, Type::Path(path) if path.qself.is_none()) {
        errors.at(
            &block.self_ty,
            format_args!("`#[{attribute}]` goes on the `impl` block of a struct or an enum"),
        );
    }
    errors.count() == before
}

/// The name of a type of the standard library, as far as its spelling tells: nobody calls a type of their
/// own by the name of a number, and few give theirs both the name and the arguments of a collection.
pub(crate) fn standard(ty: &Type) -> Option<String> {
    const PLAIN: &[&str] = &[
        "String", "bool", "char", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "u8", "u16",
        "u32", "u64", "u128", "usize",
    ];
    const GENERIC: &[&str] =
        &["Vec", "VecDeque", "HashMap", "HashSet", "BTreeMap", "BTreeSet", "Option", "Box", "Arc", "Rc"];
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last()?;
    let names = if last.arguments.is_none() { PLAIN } else { GENERIC };
    let name = plain(&last.ident);
    names.contains(&name.as_str()).then_some(name)
}

fn refuse_generics(generics: &Generics, attribute: &str, errors: &Errors) {
    for param in &generics.params {
        errors.at(param, format_args!("`#[{attribute}]` names and registers one type: it cannot be generic"));
    }
}

/// One handler per command, one fold and one variant per event.
pub(crate) fn aggregate(model: &mut Aggregate<'_>, names: &Names<'_>, errors: &Errors) {
    if let Some(name) = model.slash_in_name() {
        errors.at(
            name,
            "the name of an aggregate stands before the `/` in the names of its streams: it cannot have one",
        );
    }
    if names.is_taken(&model.events) {
        let name = model.events.clone();
        errors.at(
            &name,
            format_args!(
                "the generated enum of events would be called `{name}`, as another type here: give it another name, `#[aggregate(…, events = …)]`"
            ),
        );
        model.events = quote::format_ident!("__{name}", span = name.span());
    }
    if let (Some(rejection), None) = (&model.rejection, &model.error) {
        errors.at(
            rejection,
            "`rejection` gives the error of the aggregate, which has none: add `error = …` with its type",
        );
    }
    if let Some(error) = model.error.take_if(|error| is_no_error(error)) {
        errors.at(&error, no_error(&spelled(&error)));
        // What handlers return is not looked at.
        model.rejection = None;
        model.handlers.iter_mut().for_each(|handler| handler.broken = true);
    }
    refuse_without_error(model, errors);
    let generated = |ty: &Type| matches!(ty, Type::Path(path) if path.path.is_ident(&model.events));
    let (own, applies) =
        std::mem::take(&mut model.applies).into_iter().partition(|apply| generated(apply.event));
    let own: Vec<Apply<'_>> = own;
    model.applies = applies;
    model.knows_all_events &= own.is_empty();
    for apply in own {
        let name = spelled(apply.event);
        errors.at(
            apply.event,
            format_args!(
                "`{name}` is the generated enum of all events: write one method with `#[apply]` for each event, that takes `event: &…`"
            ),
        );
        errors.empty(apply.method);
    }
    for handler in &mut model.handlers {
        handler.broken |= refuse_inner_result(handler, errors);
    }
    for handler in &mut model.handlers {
        handler.broken |= refuse_async_service(handler, names, errors);
    }
    // A broken handler asks for nothing.
    model.handlers.iter_mut().filter(|handler| handler.broken).for_each(|handler| handler.params.clear());
    let mut commands: Vec<&Type> = Vec::new();
    model.handlers.retain(|handler| {
        let same = commands.iter().find(|other| names.are_same(other, handler.command));
        if let Some(other) = same {
            let name = again(handler.command, other, "a `#[handle]`");
            errors.at(handler.command, format_args!("{name}: a command has one handler"));
            return false;
        }
        commands.push(handler.command);
        true
    });
    let this = plain(&type_ident(model.ty));
    let mut events: Vec<(&Type, String)> = Vec::new();
    model.applies.retain_mut(|apply| {
        let variant = plain(&apply.variant);
        let same = events.iter().find(|(other, _)| names.are_same(other, apply.event));
        if let Some((other, _)) = same.or_else(|| events.iter().find(|(_, other)| *other == variant)) {
            refuse_twice(apply.event, other, same.is_some(), "apply", &format!("`{this}`"), errors);
            if same.is_some() {
                return false;
            }
            // An event all the same, so that nobody is told that it is none.
            apply.variant = quote::format_ident!("{variant}{}", events.len(), span = apply.variant.span());
        }
        events.push((apply.event, plain(&apply.variant)));
        true
    });
}

/// Checks that the types that a public aggregate or projection names are public. Reports each private one and returns
/// `false`.
pub(crate) fn visible<'a>(
    this: &Type,
    types: impl IntoIterator<Item = &'a Type>,
    names: &Names<'_>,
    errors: &Errors,
) -> bool {
    let before = errors.count();
    for ty in types.into_iter().filter(|ty| names.is_private_beside(ty, this)) {
        let this = plain(&type_ident(this));
        let name = spelled(ty);
        errors.at(
            ty,
            format_args!(
                "`{this}` is `pub` and names `{name}`, which is private: make `{name}` `pub` as well"
            ),
        );
    }
    errors.count() == before
}

fn no_error(name: &str) -> String {
    format!(
        "`{name}` does not implement `std::error::Error`: let handlers refuse with an enum or a struct of your own that does, by hand or with `thiserror`; it can have a field of this type"
    )
}

/// Whether this is one of the types that are often taken for an error and are none. The compiler knows of
/// others, but reports these several times.
fn is_no_error(ty: &Type) -> bool {
    let path = match ty {
        Type::Reference(_) | Type::Tuple(_) | Type::TraitObject(_) => return true,
        Type::Path(path) => &path.path,
        _ => return false,
    };
    let names: Vec<String> = path.segments.iter().map(|segment| plain(&segment.ident)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match names.as_slice() {
        [.., "anyhow", "Error"] | [.., "eyre", "Report" | "Error"] => true,
        [.., "Box" | "Arc"] => {
            matches!(argument_of(ty, "Box").or_else(|| argument_of(ty, "Arc")), Some(Type::TraitObject(_)))
        }
        [.., last] => *last == "String" && path.segments.last().is_some_and(|last| last.arguments.is_none()),
        [] => false,
    }
}

/// Handlers that refuse, of an aggregate that names no error: one message for all of them.
fn refuse_without_error(model: &mut Aggregate<'_>, errors: &Errors) {
    if model.error.is_some() {
        return;
    }
    let mut is_reported = model.has_error;
    let this = plain(&type_ident(model.ty));
    for handler in &mut model.handlers {
        let Some(Type::Path(returns)) = handler.returns else { continue };
        let Some(last) = returns.path.segments.last().filter(|last| last.ident == "Result") else { continue };
        let PathArguments::AngleBracketed(list) = &last.arguments else { continue };
        let Some(GenericArgument::Type(error)) = list.args.iter().nth(1) else { continue };
        let name = spelled(error);
        if name.ends_with("Infallible") {
            continue;
        }
        handler.broken = true;
        if !is_reported && is_no_error(error) {
            errors.at(error, no_error(&name));
            is_reported = true;
        } else if !is_reported {
            errors.at(
                error,
                format_args!("`{this}` names no error: add `error = {name}` to `#[aggregate(…)]`"),
            );
            is_reported = true;
        }
    }
}

/// A service with an `async` method is no trait object.
fn refuse_async_service(handler: &Handler<'_>, names: &Names<'_>, errors: &Errors) -> bool {
    let object = |param: &&Type| match param {
        Type::Reference(reference) => match &*reference.elem {
            Type::TraitObject(object) => Some(object.clone()),
            _ => None,
        },
        _ => None,
    };
    let found = handler.params.iter().filter_map(object).find_map(|object| {
        let (service, method) = names.async_method(&object)?;
        Some((object, service, method))
    });
    let Some((object, service, method)) = found else { return false };
    errors.at(
        object,
        format_args!(
            "`{service}` has the `async` method `{method}`, so there is no `dyn {service}`: let the method return `Pin<Box<dyn Future<Output = …> + Send + '_>>`"
        ),
    );
    errors.empty(handler.method);
    true
}

/// A `Result` goes around everything that a handler returns.
fn refuse_inner_result(handler: &Handler<'_>, errors: &Errors) -> bool {
    let Some(returns) = handler.returns else { return false };
    let wrapper = ["Option", "Vec"].iter().find_map(|name| Some((name, argument_of(returns, name)?)));
    let Some((wrapper, Type::Path(inner))) = wrapper else { return false };
    let Some(last) = inner.path.segments.last().filter(|last| last.ident == "Result") else { return false };
    let PathArguments::AngleBracketed(list) = &last.arguments else { return false };
    let mut arguments: Vec<String> = list.args.iter().map(spelled).collect();
    if let Some(first) = arguments.first_mut() {
        *first = format!("{wrapper}<{first}>");
    }
    let fix = arguments.join(", ");
    errors.at(returns, format_args!("a handler returns events or refuses as a whole: write `Result<{fix}>`"));
    true
}

/// One fold per event.
pub(crate) fn projection<'n>(model: &mut Projection<'_>, names: &'n Names<'n>, errors: &Errors) {
    let mut events = Events::of(model.ty, names);
    model.folds.retain(|on| events.is_new(on.event, errors));
}

/// One method per event.
pub(crate) fn sql_projection<'n>(model: &mut SqlProjection<'_>, names: &'n Names<'n>, errors: &Errors) {
    let mut events = Events::of(model.ty, names);
    model.handlers.retain(|writes| events.is_new(writes.event, errors));
}

/// The events of a projection so far.
struct Events<'a, 'n> {
    this: String,
    names: &'n Names<'n>,
    seen: Vec<&'a Type>,
}

impl<'a, 'n> Events<'a, 'n> {
    fn of(this: &Type, names: &'n Names<'n>) -> Self {
        Self { this: format!("`{}`", plain(&type_ident(this))), names, seen: Vec::new() }
    }

    fn is_new(&mut self, event: &'a Type, errors: &Errors) -> bool {
        let Some(other) = self.seen.iter().find(|other| self.names.are_same(other, event)) else {
            self.seen.push(event);
            return true;
        };
        refuse_twice(event, other, true, "on", &self.this, errors);
        false
    }
}

fn refuse_twice(event: &Type, other: &Type, same: bool, attribute: &str, this: &str, errors: &Errors) {
    if same {
        let name = again(event, other, &format!("an `#[{attribute}]`"));
        errors.at(event, format_args!("{name}: {this} folds an event in one place"));
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

/// Says that a type, perhaps under another name, has a method already.
fn again(ty: &Type, other: &Type, what: &str) -> String {
    let (name, other) = (spelled(ty), spelled(other));
    if name == other {
        format!("`{name}` has {what} already")
    } else {
        format!("`{name}` is another name of `{other}`, which has {what} already")
    }
}
