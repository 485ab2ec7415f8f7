//! Rules that the compiler cannot tell the user in their own words.

mod item;
mod method;

pub(crate) use item::{
    aggregate, borrowed_fields, command, event, impl_block, projection, sql_projection, standard, visible,
};
pub(crate) use method::{
    apply_fold, fold_event, handler_command, handler_needs, handler_params, is_unit, on_fold,
    plain_signature, statements_signature, transaction, transaction_first,
};

use syn::{Ident, Type};

/// The last name in a type's path: `Account` in `crate::bank::Account`.
pub(crate) fn type_ident(ty: &Type) -> Ident {
    let last = match ty {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    };
    last.map_or_else(|| Ident::new("Unnamed", proc_macro2::Span::mixed_site()), |last| last.ident.clone())
}
