//! `#[aggregate]`.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident};
use syn::spanned::Spanned as _;
use syn::visit_mut::VisitMut;
use syn::{Ident, Type, TypeImplTrait};

use super::event_set;
use crate::attr::Snapshot;
use crate::block;
use crate::check::type_ident;
use crate::model::aggregate::{Aggregate, Apply, Handler, Needs};
use crate::model::plain;
use crate::paths::{at, braced, emit, emit_as, emit_at, sealed};

/// The enum of events, for the user, and everything else behind the door.
pub(crate) fn expand(model: &Aggregate<'_>) -> TokenStream {
    let variants: Vec<_> = model.applies.iter().map(|apply| (&apply.variant, apply.event)).collect();
    let parts = [
        event_set::expand(&model.events, &variants, model.ty),
        conversions(model),
        state(model),
        links(model),
        routes(model),
        model.handlers.iter().map(|handler| handle(model, handler)).collect(),
        super::registration(model.ty, "aggregate"),
    ];
    let sealed = sealed(&model.krate, &parts.into_iter().collect());
    let events = events(model);
    emit!(#events #sealed)
}

/// The handlers alone, for a block that has to be part of another one.
pub(crate) fn handlers(model: &Aggregate<'_>) -> TokenStream {
    sealed(&model.krate, &model.handlers.iter().map(|handler| handle(model, handler)).collect())
}

/// ```text
/// /// Everything that can happen to an `Account`.
/// pub enum AccountEvent { Opened(Opened), Deposited(Deposited) }
/// ```
fn events(model: &Aggregate<'_>) -> TokenStream {
    let set = &model.events;
    let this = plain(&type_ident(model.ty));
    let doc = format!("Everything that can happen to `{this}`: the events with an `#[apply]`.");
    let variants = model.applies.iter().map(|Apply { variant, event, .. }| {
        let doc = format!("`{}` has happened.", plain(variant));
        emit!(#[doc = #doc] #variant(#event))
    });
    emit! {
        #[doc = #doc]
        #[allow(dead_code, deprecated, non_camel_case_types, private_interfaces, unreachable_pub, reason = "generated")]
        pub enum #set { #(#variants),* }
    }
}

/// ```text
/// impl __cqrs::IntoEvents<Account> for Opened {
///     type First = Self;
///     fn into_events(self, events: &mut Vec<AccountEvent>) { events.push(AccountEvent::Opened(self)) }
/// }
/// impl __cqrs::IntoDecision<Account> for Opened {
///     type First = Self;
///     fn into_decision(self) -> __cqrs::Decided<Account> { __cqrs::one(self) }
/// }
/// impl __cqrs::Begins<Account> for Opened {}
/// ```
fn conversions(model: &Aggregate<'_>) -> TokenStream {
    let set = &model.events;
    let whole = (set.to_token_stream(), true);
    let each = model.applies.iter().map(|apply| (apply.event.to_token_stream(), apply.fold.begins()));
    let this = model.ty;
    let one = |(event, begins): (TokenStream, bool)| {
        let begins = (begins && model.is_created()).then(|| emit!(impl __cqrs::Begins<#this> for #event {}));
        // Twice the same event, once under an alias, shows at the second.
        let span = event.span();
        let into_events = emit_as!(span => impl __cqrs::IntoEvents<#this> for #event);
        let events = braced(
            span,
            emit! {
                type First = Self;
                fn into_events(self, __events: &mut __cqrs::Events<#this>) {
                    __events.push(::core::convert::Into::into(self));
                }
            },
        );
        let into_decision = emit_as!(span => impl __cqrs::IntoDecision<#this> for #event);
        let decision = braced(
            span,
            emit! {
                type First = Self;
                fn into_decision(self) -> __cqrs::Decided<#this> {
                    __cqrs::one::<#this>(self)
                }
            },
        );
        emit! {
            #[automatically_derived]
            #into_events #events
            #[automatically_derived]
            #into_decision #decision
            #begins
        }
    };
    each.chain([whole]).map(one).collect()
}

/// ```text
/// impl __cqrs::Aggregate for Account {
///     type State = Option<Account>;
///     type Id = AccountId;
///     type Event = AccountEvent;
///     type Error = AccountError;
///     const NAME: &'static str = "Account";
///     const ALWAYS_EXISTS: bool = false;
///     const SNAPSHOTS: Option<__cqrs::Snapshots<Self>> = Some(__cqrs::Snapshots::every(500, 1, 0x…));
///     fn initial() -> Option<Self> { None }
///     fn apply(state: &mut Option<Self>, event: &AccountEvent) -> __cqrs::Fits {
///         match event { AccountEvent::Opened(event) => __cqrs::creates(state, || Self::opened(event)), … }
///     }
///     fn rejected(rejection: &__cqrs::Rejection) -> Option<AccountError> {
///         let convert: fn(&__cqrs::Rejection) -> Option<AccountError> = AccountError::of_rejection;
///         convert(rejection)
///     }
///     fn state_size(state: &Self) -> Option<usize> {
///         let measure: fn(&Account) -> usize = Account::bytes;
///         Some(measure(state))
///     }
///     fn services(needed: &mut __cqrs::Needed) { … }
/// }
/// ```
fn state(model: &Aggregate<'_>) -> TokenStream {
    let Aggregate { ty, events, name, .. } = model;
    let id = id(model);
    let always = model.always_exists();
    let error = error(model);
    let state = emit_as!(ty.span() => type State = ::core::option::Option<#ty>;);
    let event = emit_as!(ty.span() => type Event = #events;);
    // A type that the aggregate's visibility does not allow is blamed on the argument.
    let ids = emit_as!(id.span() => type Id = #id;);
    let errors = emit_as!(error.span() => type Error = #error;);
    let initial = super::initial(model.ty, model.is_created(), &emit!(InitialState));
    let arms = model.applies.iter().map(|apply| {
        let variant = &apply.variant;
        if apply.broken {
            let unread = block::unread();
            return emit!(#events::#variant(_) => #unread,);
        }
        let fold = super::fold(apply.fold, apply.method, &emit!(__event));
        emit!(#events::#variant(__event) => #fold,)
    });
    let this = if model.applies.is_empty() { emit!(*__event) } else { emit!(__event) };
    let services = services(model);
    let snapshots = snapshots(model);
    let rejected = rejected(model);
    let state_size = state_size(model);
    emit! {
        #[automatically_derived]
        impl __cqrs::Aggregate for #ty {
            #state
            #ids
            #event
            #errors
            const NAME: &'static ::core::primitive::str = #name;
            const ALWAYS_EXISTS: ::core::primitive::bool = #always;
            #snapshots
            #initial
            fn apply(__state: &mut ::core::option::Option<Self>, __event: &#events) -> __cqrs::Fits {
                match #this { #(#arms)* }
            }
            #rejected
            #state_size
            #services
        }
    }
}

/// Blames the argument, if the state cannot be kept.
fn snapshots(model: &Aggregate<'_>) -> Option<TokenStream> {
    let Snapshot { keyword, every, version } = model.snapshot.as_ref()?;
    let (ty, fold) = (model.ty, model.fold);
    let made = emit_at!(keyword.span() => __cqrs::Snapshots::<#ty>::every(#every, #version, #fold));
    Some(emit! {
        const SNAPSHOTS: ::core::option::Option<__cqrs::Snapshots<Self>> = ::core::option::Option::Some(#made);
    })
}

/// Blames the path, if it is another kind of function.
fn rejected(model: &Aggregate<'_>) -> Option<TokenStream> {
    // Without `error = …` the argument itself is the mistake, which is reported.
    let (path, error) = (model.rejection.as_ref()?, model.error.as_ref()?);
    let convert = emit_at!(path.span() => {
        let __convert: fn(&__cqrs::Rejection) -> ::core::option::Option<#error> = #path;
        __convert
    });
    Some(emit! {
        fn rejected(__rejection: &__cqrs::Rejection) -> ::core::option::Option<#error> {
            (#convert)(__rejection)
        }
    })
}

/// Blames the path, if it is another kind of function.
fn state_size(model: &Aggregate<'_>) -> Option<TokenStream> {
    let (path, ty) = (model.state_size.as_ref()?, model.ty);
    let measure = emit_at!(path.span() => {
        let __measure: fn(&#ty) -> ::core::primitive::usize = #path;
        __measure
    });
    Some(emit! {
        fn state_size(__state: &Self) -> ::core::option::Option<::core::primitive::usize> {
            ::core::option::Option::Some((#measure)(__state))
        }
    })
}

/// What names one of them. If that is missing, the first command knows, so that no other breaks.
fn id(model: &Aggregate<'_>) -> TokenStream {
    match (&model.id, model.handlers.first()) {
        (Some(id), _) => id.to_token_stream(),
        (None, Some(Handler { command, .. })) => emit!(<#command as __cqrs::Command>::Id),
        (None, None) => emit!(::core::primitive::u64),
    }
}

/// What handlers refuse with; without `error = …` they never do.
fn error(model: &Aggregate<'_>) -> TokenStream {
    model.error.as_ref().map_or_else(|| emit!(::core::convert::Infallible), ToTokens::to_token_stream)
}

/// All that handlers take behind their commands; the context needs nothing.
fn services(model: &Aggregate<'_>) -> Option<TokenStream> {
    let mut params: Vec<&Type> = Vec::new();
    for param in model.handlers.iter().flat_map(|handler| handler.params.iter().copied()) {
        if !params.contains(&param) {
            params.push(param);
        }
    }
    (!params.is_empty()).then(|| {
        emit! {
            fn services(__needed: &mut __cqrs::Needed) {
                #(__cqrs::need(__needed, <#params as __cqrs::Param<'_>>::NEEDS);)*
            }
        }
    })
}

/// ```text
/// impl __cqrs::IdOf<Account> for AccountId {}
/// impl __cqrs::ErrorOf<Account> for AccountError { fn into_error(self) -> Self { self } }
/// ```
fn links(model: &Aggregate<'_>) -> TokenStream {
    let (ty, id) = (model.ty, id(model));
    let error = error(model);
    emit! {
        #[automatically_derived]
        impl __cqrs::IdOf<#ty> for #id {}
        #[automatically_derived]
        impl __cqrs::ErrorOf<#ty> for #error {
            fn into_error(self) -> Self {
                self
            }
        }
    }
}

/// The id of each command is that of the aggregate.
///
/// ```text
/// const _: fn() = || {
///     use __cqrs::Nowhere as _;
///     __cqrs::Route::<Deposit>::OF.to::<Account>();
/// };
/// ```
fn routes(model: &Aggregate<'_>) -> TokenStream {
    let this = model.ty;
    let route = |Handler { command, .. }: &Handler<'_>| emit_as!(command.span() => __cqrs::Route::<#command>::OF.to::<#this>(););
    let routes = model.handlers.iter().map(route);
    emit! {
        const _: fn() = || {
            #[allow(unused_imports, reason = "for what is not a command")]
            use __cqrs::Nowhere as _;
            #(#routes)*
        };
    }
}

/// ```text
/// impl __cqrs::HandledByOneAggregate for Deposit { type Aggregate = Account; }
/// impl __cqrs::Handle<Deposit> for Account {
///     const REACHES_OUT: bool = false;
///     fn handle<'a>(current: __cqrs::Current<'a, Self>, command: Deposit, around: &__cqrs::Surroundings<'a>)
///         -> __cqrs::Decision<'a, Self>
///     {
///         __cqrs::decide::<Self, Result<Deposited, AccountError>>(|| {
///             let state = current.existing()?;
///             Ok(Self::deposit(state, command))
///         })
///     }
/// }
/// ```
fn handle(model: &Aggregate<'_>, handler: &Handler<'_>) -> TokenStream {
    let this = model.ty;
    let Handler { command, .. } = handler;
    let reaches_out = reaches_out(handler);
    let answer = answer(model, handler);
    let link = emit_as!(command.span() => impl __cqrs::HandledByOneAggregate for #command { type Aggregate = #this; });
    let handle = emit_as!(command.span() => __cqrs::Handle<#command>);
    emit! {
        #[automatically_derived]
        #link
        #[automatically_derived]
        impl #handle for #this {
            const REACHES_OUT: ::core::primitive::bool = #reaches_out;
            fn handle<'__a>(
                __current: __cqrs::Current<'__a, Self>,
                __command: #command,
                __around: &__cqrs::Surroundings<'__a>,
            ) -> __cqrs::Decision<'__a, Self> {
                #answer
            }
        }
    }
}

/// `true`, `false`, or what the parameters say.
fn reaches_out(handler: &Handler<'_>) -> TokenStream {
    let params = &handler.params;
    match (handler.is_async, params.is_empty()) {
        (true, _) => emit!(true),
        (false, true) => emit!(false),
        (false, false) => emit!(#(<#params as __cqrs::Param<'_>>::NEEDS.is_some())||*),
    }
}

/// The body of a handler; one with a mistake only stands for its command.
fn answer(model: &Aggregate<'_>, handler: &Handler<'_>) -> TokenStream {
    if handler.broken || !model.knows_all_events {
        return block::unread();
    }
    let (state, call) = call(handler);
    let decide = decide(model, handler);
    emit_at!(handler.method.span() => #decide(|| { #state ::core::result::Result::Ok(#call) }))
}

/// The function that makes a decision of the answer, with the type of the answer.
fn decide(model: &Aggregate<'_>, handler: &Handler<'_>) -> TokenStream {
    let first = handler.needs == Needs::Absent && model.is_created();
    let name = match (first, handler.is_async) {
        (false, false) => "decide",
        (true, false) => "decide_first",
        (false, true) => "decide_later",
        (true, true) => "decide_first_later",
    };
    let returns = match handler.returns {
        None => emit!(()),
        // Such a type cannot be named again; the closure says what it is.
        Some(ty) if has_impl_trait(ty) => emit_at!(ty.span() => _),
        Some(ty) => ty.to_token_stream(),
    };
    let future = handler.is_async.then(|| emit_at!(handler.method.span() => , _));
    let span = handler.method.span();
    let name = Ident::new(name, at(span));
    emit_at!(span => __cqrs::#name::<Self, #returns #future>)
}

fn has_impl_trait(ty: &Type) -> bool {
    struct Finder(bool);
    impl VisitMut for Finder {
        fn visit_type_impl_trait_mut(&mut self, _: &mut TypeImplTrait) {
            self.0 = true;
        }
    }
    let mut finder = Finder(false);
    finder.visit_type_mut(&mut ty.clone());
    finder.0
}

/// What comes before the user's method is called, and the call.
fn call(handler: &Handler<'_>) -> (TokenStream, TokenStream) {
    let method = handler.method;
    let (mut before, state) = match handler.needs {
        Needs::Absent => (emit!(__current.absent()?;), None),
        Needs::Existing => (emit!(let __state = __current.existing()?;), Some(emit!(__state))),
        Needs::Either => (emit!(let __state = __current.either();), Some(emit!(__state))),
    };
    let mut arguments: Vec<TokenStream> = state.into_iter().collect();
    arguments.push(if handler.by_reference { emit!(&__command) } else { emit!(__command) });
    for (index, param) in handler.params.iter().enumerate() {
        let name = format_ident!("__{index}", span = Span::mixed_site());
        before.extend(emit!(let #name = <#param as __cqrs::Param<'_>>::take(__around)?;));
        arguments.push(emit!(#name));
    }
    // A future that is not `Send` shows here.
    let span = method.span();
    let mut method = method.clone();
    method.set_span(at(span));
    let call = emit_at!(span => Self::#method(#(#arguments),*));
    // The future borrows the command, so it has to own it.
    let owns = handler.is_async && handler.by_reference;
    (before, if owns { emit!(async move { #call.await }) } else { call })
}
