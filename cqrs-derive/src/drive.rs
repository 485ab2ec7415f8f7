//! parse → check → expand, for each macro.

use proc_macro2::{Span, TokenStream};
use syn::{DeriveInput, Item, ItemImpl};

use crate::attr::names;
use crate::errors::Errors;
use crate::model::aggregate::Aggregate;
use crate::model::command::Command;
use crate::model::event::Event;
use crate::model::projection::Projection;
use crate::paths::emit;
use crate::{check, expand, fallback};

pub(crate) fn event(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.to_compile_error(),
    };
    let errors = Errors::default();
    let model = Event::read(&input, &errors);
    check::event(&input, &model, &errors);
    match errors.into_tokens() {
        None => expand::event::expand(&model),
        Some(errors) => {
            let dummy = fallback::event(&input, &model);
            emit!(#errors #dummy)
        }
    }
}

pub(crate) fn command(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.to_compile_error(),
    };
    let errors = Errors::default();
    let model = Command::read(&input, &errors);
    check::command(&input, &model, &errors);
    match errors.into_tokens() {
        None if model.id_type().is_some() => expand::command::expand(&model),
        // rustc knows what is wrong, an attribute that is nearly `#[id]`.
        None => fallback::command(&input, &model),
        Some(errors) => {
            let dummy = fallback::command(&input, &model);
            emit!(#errors #dummy)
        }
    }
}

pub(crate) fn aggregate(args: TokenStream, item: &TokenStream) -> TokenStream {
    let block = match block(item, names::AGGREGATE) {
        Ok(block) => block,
        Err(refused) => return refused,
    };
    let errors = Errors::default();
    let fits = check::impl_block(&block, names::AGGREGATE, &errors);
    let mut model = Aggregate::read(args, &block, &errors);
    check::aggregate(&mut model, &errors);
    let generated = if fits { expand::aggregate::expand(&model) } else { fallback::aggregate(&model) };
    finish(&block, errors, &generated)
}

pub(crate) fn projection(args: TokenStream, item: &TokenStream) -> TokenStream {
    let block = match block(item, names::PROJECTION) {
        Ok(block) => block,
        Err(refused) => return refused,
    };
    let errors = Errors::default();
    let fits = check::impl_block(&block, names::PROJECTION, &errors);
    let mut model = Projection::read(args, &block, &errors);
    check::projection(&mut model, &errors);
    let generated = if fits { expand::projection::expand(&model) } else { TokenStream::new() };
    finish(&block, errors, &generated)
}

/// The user's block, the mistakes, and what was made of the rest.
fn finish(block: &ItemImpl, errors: Errors, generated: &TokenStream) -> TokenStream {
    let errors = errors.into_tokens();
    let block = fallback::stripped(block.clone());
    emit!(#block #errors #generated)
}

/// The `impl` block that the attribute stands on, or what to emit instead.
fn block(item: &TokenStream, attribute: &str) -> Result<ItemImpl, TokenStream> {
    match syn::parse2::<Item>(item.clone()) {
        Ok(Item::Impl(block)) => Ok(block),
        Ok(_) => {
            let message =
                format!("`#[{attribute}]` goes on an `impl` block: move it to `impl … {{ … }}` of this type");
            let error = syn::Error::new(Span::call_site(), message).to_compile_error();
            Err(emit!(#item #error))
        }
        Err(error) => Err(error.to_compile_error()),
    }
}
