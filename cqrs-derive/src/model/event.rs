//! `#[derive(Event)]`.

use proc_macro2::Span;
use syn::{Data, DeriveInput, ExprPath, Field, Generics, Ident, LitInt, Member, Type};

use super::plain;
use crate::attr::{self, EventArgs, Steps, names};
use crate::errors::Errors;
use crate::paths::Krate;

/// A struct that is a fact.
pub(crate) struct Event<'a> {
    pub(crate) ident: &'a Ident,
    pub(crate) generics: &'a Generics,
    pub(crate) krate: Krate,
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) version_literal: Option<LitInt>,
    pub(crate) codec: Option<Type>,
    pub(crate) from: Option<Type>,
    pub(crate) replaces: Vec<Type>,
    pub(crate) upcast: Option<Steps>,
    pub(crate) upcast_bytes: Option<ExprPath>,
    /// Whether a way from an older version was written, be it wrongly.
    pub(crate) has_way: bool,
    pub(crate) tags: Vec<Tag<'a>>,
}

/// A field with `#[tag]`.
pub(crate) struct Tag<'a> {
    pub(crate) member: Member,
    pub(crate) name: String,
    pub(crate) ty: &'a Type,
}

impl<'a> Event<'a> {
    pub(crate) fn read(input: &'a DeriveInput, errors: &Errors) -> Self {
        let args = EventArgs::read(&input.attrs, errors);
        if args.name.is_none() {
            attr::long_ident(&input.ident, names::EVENT, errors);
        }
        attr::misplaced(&input.attrs, names::TAG, "put it on a field", errors);
        let (version, version_literal) = match args.version {
            Some((number, literal)) => (number, Some(literal)),
            None => (1, None),
        };
        Self {
            ident: &input.ident,
            generics: &input.generics,
            krate: args.krate,
            name: args.name.map_or_else(|| plain(&input.ident), |name| name.value()),
            version,
            version_literal,
            codec: args.codec,
            from: args.from,
            replaces: args.replaces,
            upcast: args.upcast,
            upcast_bytes: args.upcast_bytes,
            has_way: args.has_way,
            tags: read_tags(input, errors),
        }
    }

    /// The raw steps.
    pub(crate) fn steps(&self) -> &[ExprPath] {
        self.upcast.as_ref().map_or(&[], |steps| &steps.functions)
    }

    /// Where a mistake in the version shows.
    pub(crate) fn version_span(&self) -> Span {
        self.version_literal.as_ref().map_or_else(|| self.ident.span(), LitInt::span)
    }
}

fn read_tags<'a>(input: &'a DeriveInput, errors: &Errors) -> Vec<Tag<'a>> {
    let Data::Struct(data) = &input.data else { return Vec::new() };
    let read = |(member, field): (Member, &'a Field)| {
        attr::misplaced(&field.attrs, names::EVENT, "put it on the struct", errors);
        let attr = attr::single(&field.attrs, names::TAG, errors)?;
        let name = match (attr::tag_name(attr, errors), &member) {
            (Some(name), _) => name.value(),
            (None, Member::Named(ident)) => plain(ident),
            (None, Member::Unnamed(_)) => {
                errors
                    .at(attr.path(), "a field without a name needs one for its tag: `#[tag(name = \"…\")]`");
                return None;
            }
        };
        Some(Tag { member, name, ty: &field.ty })
    };
    data.fields.members().zip(&data.fields).filter_map(read).collect()
}
