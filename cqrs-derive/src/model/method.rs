//! The signature of a marked method, in the words of the macros.

use crate::attr::names;

use syn::{
    FnArg, GenericArgument, ImplItemFn, PatType, PathArguments, Receiver, ReceiverKind, ReturnType, Type,
};

/// What a method does with the state that may be there.
pub(crate) enum Takes<'a> {
    /// No `self`.
    Nothing,
    /// `&self`.
    Shared(&'a Receiver),
    /// `&mut self`.
    Mutable(&'a Receiver),
    /// `self`.
    Owned(&'a Receiver),
    /// `self: …`.
    Other(&'a Receiver),
    /// A first parameter `Option<&Self>`.
    MaybeShared,
    /// A first parameter `Option<Self>`.
    MaybeOwned(&'a PatType),
    /// A first parameter with `Self` in it under another name, such as an alias of `Option`.
    Aliased(&'a PatType),
}

/// What a fold does to the state.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fold {
    /// No `self`, gives one.
    Creates,
    /// `&mut self`.
    Changes,
    /// `self`, gives what it becomes. Documents only.
    Consumes,
    /// `Option<&Self>`.
    MaybeShared,
    /// `Option<Self>`.
    MaybeOwned,
}

impl Fold {
    /// Whether it can be the first.
    pub(crate) fn begins(self) -> bool {
        !matches!(self, Self::Changes | Self::Consumes)
    }
}

/// A marked method.
pub(crate) struct Method<'a> {
    pub(crate) item: &'a ImplItemFn,
    pub(crate) takes: Takes<'a>,
    /// What follows the receiver, or what stands for it.
    pub(crate) params: Vec<&'a PatType>,
}

impl<'a> Method<'a> {
    pub(crate) fn read(item: &'a ImplItemFn, this: &Type) -> Self {
        let mut takes = Takes::Nothing;
        let mut params = Vec::new();
        for (at, input) in item.sig.inputs.iter().enumerate() {
            match input {
                FnArg::Receiver(receiver) => takes = received(receiver),
                FnArg::Typed(param) => match optional(&param.ty, this) {
                    Some(true) if at == 0 => takes = Takes::MaybeShared,
                    Some(false) if at == 0 => takes = Takes::MaybeOwned(param),
                    None if at == 0 && is_aliased(&param.ty, this, item) => takes = Takes::Aliased(param),
                    _ => params.push(param),
                },
            }
        }
        Self { item, takes, params }
    }

    /// The written return type.
    pub(crate) fn returns(&self) -> Option<&'a Type> {
        match &self.item.sig.output {
            ReturnType::Default => None,
            ReturnType::Type(_, ty) => Some(ty),
        }
    }
}

fn received(receiver: &Receiver) -> Takes<'_> {
    match (&receiver.kind, &receiver.mutability) {
        (ReceiverKind::Value, _) => Takes::Owned(receiver),
        (ReceiverKind::Reference(_, _, None), _) => Takes::Shared(receiver),
        (ReceiverKind::Reference(_, _, Some(_)), _) => Takes::Mutable(receiver),
        _ => Takes::Other(receiver),
    }
}

/// `Some(true)` for `Option<&Self>`, `Some(false)` for `Option<Self>`.
fn optional(ty: &Type, this: &Type) -> Option<bool> {
    match argument_of(ty, "Option")? {
        Type::Reference(inner) if inner.mutability.is_none() && is_self(&inner.elem, this) => Some(true),
        inner if is_self(inner, this) => Some(false),
        _ => None,
    }
}

/// Whether it is an alias of `Option<&Self>` or `Option<Self>`: `Self` is the argument of a type that is
/// not a command. A command may be generic, but holds no references.
fn is_aliased(ty: &Type, this: &Type, item: &ImplItemFn) -> bool {
    let Type::Path(path) = ty else { return false };
    let Some(PathArguments::AngleBracketed(list)) = path.path.segments.last().map(|last| &last.arguments)
    else {
        return false;
    };
    let handles = item.attrs.iter().any(|attr| attr.path().is_ident(names::HANDLE));
    list.args.iter().any(|argument| match argument {
        GenericArgument::Type(Type::Reference(inner)) => is_self(&inner.elem, this),
        GenericArgument::Type(inner) => !handles && is_self(inner, this),
        _ => false,
    })
}

/// The `T` of `Wrapper<T>`, however the wrapper's path is written.
pub(crate) fn argument_of<'a>(ty: &'a Type, wrapper: &str) -> Option<&'a Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == wrapper)?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(inner) => Some(inner),
        _ => None,
    }
}

/// Whether a type is `Self` or spelled as in `impl Type`.
pub(crate) fn is_self(ty: &Type, this: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.is_ident("Self")) || ty == this
}
