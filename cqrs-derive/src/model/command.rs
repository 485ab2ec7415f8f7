//! `#[derive(Command)]`.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{Attribute, Data, DeriveInput, Field, Fields, Generics, Ident, Member, Type};

use super::plain;
use crate::attr::{self, CommandArgs, names};
use crate::errors::Errors;
use crate::hash;
use crate::paths::Krate;

/// A request to one aggregate.
pub(crate) struct Command<'a> {
    pub(crate) ident: &'a Ident,
    pub(crate) generics: &'a Generics,
    pub(crate) krate: Krate,
    pub(crate) name: String,
    /// A hash of the fields with their types and attributes.
    pub(crate) shape: u64,
    /// One without a name for a struct; one per variant for an enum.
    pub(crate) cases: Vec<Case<'a>>,
}

/// The variants and fields of a command, as tokens.
struct Shape<'a>(&'a Data);

impl ToTokens for Shape<'_> {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match self.0 {
            Data::Struct(data) => data.fields.to_tokens(tokens),
            Data::Enum(data) => data.variants.to_tokens(tokens),
            Data::Union(_) => {}
        }
    }
}

/// The fields of a struct or of one variant.
pub(crate) struct Case<'a> {
    /// The variant's name; none for a struct.
    pub(crate) variant: Option<&'a Ident>,
    pub(crate) fields: Vec<CommandField<'a>>,
    pub(crate) id: Option<Marked<'a>>,
    pub(crate) expected_version: Option<Marked<'a>>,
    pub(crate) idempotency_key: Option<Marked<'a>>,
}

/// A field of a command.
pub(crate) struct CommandField<'a> {
    pub(crate) member: Member,
    pub(crate) ty: &'a Type,
}

/// A field with one of our attributes.
pub(crate) struct Marked<'a> {
    pub(crate) member: Member,
    pub(crate) ty: &'a Type,
}

const MARKS: [&str; 3] = [names::ID, names::EXPECTED_VERSION, names::IDEMPOTENCY_KEY];

impl<'a> Command<'a> {
    pub(crate) fn read(input: &'a DeriveInput, errors: &Errors) -> Self {
        let args = CommandArgs::read(&input.attrs, errors);
        if args.name.is_none() {
            attr::long_ident(&input.ident, names::COMMAND, errors);
        }
        refuse_marks(&input.attrs, errors);
        let cases = match &input.data {
            Data::Struct(data) => vec![Case::read(None, &data.fields, &input.ident, errors)],
            Data::Enum(data) => {
                let read = |variant: &'a syn::Variant| {
                    refuse_marks(&variant.attrs, errors);
                    attr::misplaced(&variant.attrs, names::COMMAND, "put it on the enum", errors);
                    Case::read(Some(&variant.ident), &variant.fields, &variant.ident, errors)
                };
                data.variants.iter().map(read).collect()
            }
            Data::Union(_) => Vec::new(),
        };
        Self {
            ident: &input.ident,
            generics: &input.generics,
            krate: args.krate,
            name: args.name.map_or_else(|| plain(&input.ident), |name| name.value()),
            shape: hash::tokens(&Shape(&input.data)),
            cases,
        }
    }

    /// The type of the id, as the first case spells it.
    pub(crate) fn id_type(&self) -> Option<&'a Type> {
        self.cases.iter().find_map(|case| case.id.as_ref()).map(|id| id.ty)
    }
}

impl<'a> Case<'a> {
    fn read(variant: Option<&'a Ident>, fields: &'a Fields, owner: &Ident, errors: &Errors) -> Self {
        for field in fields {
            attr::misplaced(&field.attrs, names::COMMAND, "put it on the command itself", errors);
        }
        let member = |(member, field): (Member, &'a Field)| CommandField { member, ty: &field.ty };
        let case = Self {
            variant,
            fields: fields.members().zip(fields).map(member).collect(),
            id: marked(fields, names::ID, errors),
            expected_version: marked(fields, names::EXPECTED_VERSION, errors),
            idempotency_key: marked(fields, names::IDEMPOTENCY_KEY, errors),
        };
        // rustc itself reports an attribute that is nearly `#[id]`.
        let misspelt = fields.iter().any(|field| attr::nearly(&field.attrs, names::ID).is_some());
        if case.id.is_none() && !misspelt {
            errors.at(
                owner,
                format_args!("`{}` has no id: mark the field that routes it with `#[id]`", plain(owner)),
            );
        }
        case
    }
}

fn refuse_marks(attrs: &[Attribute], errors: &Errors) {
    for mark in MARKS {
        attr::misplaced(attrs, mark, "put it on a field", errors);
    }
}

/// The one field with this attribute.
fn marked<'a>(fields: &'a Fields, name: &str, errors: &Errors) -> Option<Marked<'a>> {
    let mut found: Option<Marked<'a>> = None;
    for (member, field) in fields.members().zip(fields) {
        let Some(attr) = attr::single(&field.attrs, name, errors) else { continue };
        attr::no_arguments(attr, name, errors);
        if found.is_some() {
            errors.at(
                attr.path(),
                format_args!("a second `#[{name}]`: a command has one, leave it on one field"),
            );
        } else {
            found = Some(Marked { member, ty: &field.ty });
        }
    }
    found
}
