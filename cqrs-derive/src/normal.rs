//! Types without what wraps them.
//!
//! What `macro_rules!` has captured arrives in a group without delimiters, and a user may write
//! parentheses. Neither changes what a type is, so both are taken off once, right after parsing, and
//! nothing else in this crate meets them.

use syn::visit_mut::{self, VisitMut};
use syn::{DeriveInput, Expr, ImplItem, ItemImpl, Signature, Type};

/// A type, with everything in it.
pub(crate) fn ty(mut ty: Type) -> Type {
    Unwrap.visit_type_mut(&mut ty);
    ty
}

/// A key's expression, which may be nothing but a captured name.
pub(crate) fn expr(mut expr: Expr) -> Expr {
    Unwrap.visit_expr_mut(&mut expr);
    expr
}

/// The types in a signature.
pub(crate) fn signature(sig: &mut Signature) {
    Unwrap.visit_signature_mut(sig);
}

/// The type of the block and those in the signatures of its methods.
pub(crate) fn block(block: &mut ItemImpl) {
    Unwrap.visit_type_mut(&mut block.self_ty);
    for item in &mut block.items {
        if let ImplItem::Fn(method) = item {
            signature(&mut method.sig);
        }
    }
}

/// The types of all fields.
pub(crate) fn input(input: &mut DeriveInput) {
    Unwrap.visit_derive_input_mut(input);
}

struct Unwrap;

impl VisitMut for Unwrap {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        visit_mut::visit_type_mut(self, ty);
        let (inner, parens) = match ty {
            Type::Group(group) => (&mut *group.elem, syn::token::Paren::default()),
            Type::Paren(paren) => (&mut *paren.elem, paren.paren_token),
            _ => return,
        };
        let inner = std::mem::replace(inner, Type::Verbatim(proc_macro2::TokenStream::new()));
        let open_ended = match &inner {
            Type::TraitObject(object) => object.bounds.len() > 1,
            Type::ImplTrait(object) => object.bounds.len() > 1,
            _ => false,
        };
        *ty = if open_ended {
            // `&(dyn A + B)` is another type than `&dyn A + B`.
            Type::Paren(syn::TypeParen { attrs: Vec::new(), paren_token: parens, elem: Box::new(inner) })
        } else {
            inner
        };
    }

    fn visit_expr_mut(&mut self, expr: &mut Expr) {
        visit_mut::visit_expr_mut(self, expr);
        while let Expr::Group(group) = expr
            && matches!(&*group.expr, Expr::Lit(_) | Expr::Path(_) | Expr::Group(_))
        {
            *expr = std::mem::replace(&mut *group.expr, Expr::PLACEHOLDER);
        }
    }
}
