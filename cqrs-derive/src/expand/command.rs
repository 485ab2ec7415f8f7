//! `#[derive(Command)]`.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens as _, format_ident};
use syn::{GenericParam, Generics};

use crate::model::command::{Case, Command, Marked};
use crate::paths::{emit, emit_as, sealed};

/// ```text
/// const _: () = {
///     use ::cqrs::__private as __cqrs;
///     impl __cqrs::Command for Deposit {
///         type Id = AccountId;
///         type Aggregate = <Self as __cqrs::HandledByOneAggregate>::Aggregate;
///         type Shared = __cqrs::Sent<Self>;
///         const NAME: &'static str = "Deposit";
///         fn id(&self) -> &Self::Id { match self { Self { account: __it, .. } => __it } }
///         fn duplicate(&self) -> Self { match self { Self { account: __0, cents: __1 } => Self {
///             account: <AccountId as __cqrs::Duplicate>::duplicate(__0), … } } }
///     }
/// };
/// ```
pub(crate) fn expand(command: &Command<'_>) -> TokenStream {
    let Command { ident, name, .. } = command;
    let id = command.id_type();
    let (generics, arguments) = bounded(command, true);
    let (params, _, bounds) = generics.split_for_impl();
    let aggregate = emit_as!(ident.span() => <Self as __cqrs::HandledByOneAggregate>::Aggregate);
    let this = emit_as!(ident.span() => __cqrs::Command for #ident);
    let shared = emit_as!(ident.span() => type Shared = __cqrs::Sent<Self>;);
    let ids = command.cases.iter().map(|case| arm(case, case.id.as_ref(), &emit!(__it)));
    let copies = command.cases.iter().map(copy);
    let version = expected_version(command);
    let key = idempotency_key(command);
    let content = content(command);
    sealed(
        &command.krate,
        &emit! {
            #[automatically_derived]
            impl #params #this #arguments #bounds {
                type Id = #id;
                type Aggregate = #aggregate;
                #shared
                const NAME: &'static ::core::primitive::str = #name;
                fn id(&self) -> &Self::Id {
                    match self { #(#ids)* }
                }
                #version
                #key
                #content
                fn duplicate(&self) -> Self {
                    match self { #(#copies)* }
                }
            }
        },
    )
}

/// A generic command: each parameter can travel, the whole has its one aggregate, and that the id.
pub(crate) fn bounded(command: &Command<'_>, with_id: bool) -> (Generics, TokenStream) {
    let (_, arguments, _) = command.generics.split_for_impl();
    let arguments = arguments.to_token_stream();
    let mut generics = command.generics.clone();
    if generics.params.iter().all(|param| matches!(param, GenericParam::Lifetime(_))) {
        return (generics, arguments);
    }
    let names: Vec<_> = generics.type_params().map(|param| param.ident.clone()).collect();
    for param in &mut generics.params {
        match param {
            GenericParam::Type(param) => param.default = None,
            GenericParam::Const(param) => param.default = None,
            GenericParam::Lifetime(_) => {}
        }
    }
    let clause = generics.make_where_clause();
    for name in names {
        clause.predicates.push(syn::parse_quote! {
            #name: ::core::clone::Clone + ::core::marker::Send + ::core::marker::Sync + 'static
        });
    }
    clause
        .predicates
        .push(syn::parse_quote!(Self: __cqrs::HandledByOneAggregate<Aggregate: __cqrs::Handle<Self>>));
    if let Some(id) = command.id_type().filter(|_| with_id) {
        clause
            .predicates
            .push(syn::parse_quote!(#id: __cqrs::Id + __cqrs::IdOf<<Self as __cqrs::HandledByOneAggregate>::Aggregate>));
    }
    (generics, arguments)
}

/// `Self::Variant { field: __it, .. } => value,` or `Self { .. } => None,`.
fn arm(case: &Case<'_>, marked: Option<&Marked<'_>>, value: &TokenStream) -> TokenStream {
    let path = path(case);
    match marked {
        Some(Marked { member, .. }) => emit!(#path { #member: __it, .. } => #value,),
        None => emit!(#path { .. } => ::core::option::Option::None,),
    }
}

fn path(case: &Case<'_>) -> TokenStream {
    match case.variant {
        Some(variant) => emit!(Self::#variant),
        None => emit!(Self),
    }
}

/// `Self { account: __0 } => Self { account: <AccountId as __cqrs::Duplicate>::duplicate(__0) },`
fn copy(case: &Case<'_>) -> TokenStream {
    let path = path(case);
    let members: Vec<_> = case.fields.iter().map(|field| &field.member).collect();
    let types = case.fields.iter().map(|field| field.ty);
    let names: Vec<_> =
        (0..members.len()).map(|index| format_ident!("__{index}", span = Span::mixed_site())).collect();
    emit! {
        #path { #(#members: #names),* } => #path { #(#members: <#types as __cqrs::Duplicate>::duplicate(#names)),* },
    }
}

/// ```text
/// fn expected_version(&self) -> Option<__cqrs::ExpectedVersion> {
///     match self { Self { seen: __it, .. } => <Version as __cqrs::Expects>::version(__it) }
/// }
/// ```
fn expected_version(command: &Command<'_>) -> Option<TokenStream> {
    let arms = arms(
        command,
        |case| case.expected_version.as_ref(),
        |marked| {
            let ty = marked.ty;
            emit!(<#ty as __cqrs::Expects>::version(__it))
        },
    )?;
    Some(emit! {
        fn expected_version(&self) -> ::core::option::Option<__cqrs::ExpectedVersion> {
            match self { #arms }
        }
    })
}

/// As [`expected_version`], with the text of the key.
fn idempotency_key(command: &Command<'_>) -> Option<TokenStream> {
    let arms = arms(
        command,
        |case| case.idempotency_key.as_ref(),
        |marked| {
            let ty = marked.ty;
            emit!(<#ty as __cqrs::KeyText<_>>::text(__it))
        },
    )?;
    Some(emit! {
        fn idempotency_key(&self) -> ::core::option::Option<__cqrs::Text<'_>> {
            match self { #arms }
        }
    })
}

/// ```text
/// fn content(&self) -> Option<__cqrs::Content> {
///     use __cqrs::{NotSerialized as _, Serialized as _};
///     (&__cqrs::Compared(self)).content(0x…)
/// }
/// ```
///
/// Whether a type parameter can be serialized is not known here, so a generic command has none.
fn content(command: &Command<'_>) -> Option<TokenStream> {
    if !command.generics.params.is_empty() {
        return None;
    }
    let shape = command.shape;
    Some(emit! {
        fn content(&self) -> ::core::option::Option<__cqrs::Content> {
            #[allow(unused_imports)]
            use __cqrs::{NotSerialized as _, Serialized as _};
            (&__cqrs::Compared(self)).content(#shape)
        }
    })
}

/// One arm per case; nothing if no case has the mark.
fn arms<'a>(
    command: &'a Command<'a>,
    mark: impl Fn(&'a Case<'a>) -> Option<&'a Marked<'a>>,
    value: impl Fn(&Marked<'_>) -> TokenStream,
) -> Option<TokenStream> {
    command.cases.iter().find_map(&mark)?;
    let one = |case| {
        let marked = mark(case);
        arm(case, marked, &marked.map(&value).unwrap_or_default())
    };
    Some(command.cases.iter().map(one).collect())
}
