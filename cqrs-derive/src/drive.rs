//! parse → check → expand, for each macro.

use proc_macro2::TokenStream;
use syn::{DeriveInput, ItemImpl};

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
        Some(errors) => errors,
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
        None => expand::command::expand(&model),
        Some(errors) => errors,
    }
}

pub(crate) fn aggregate(args: TokenStream, item: TokenStream) -> TokenStream {
    let block: ItemImpl = match syn::parse2(item) {
        Ok(block) => block,
        Err(error) => return error.to_compile_error(),
    };
    let errors = Errors::default();
    let fine = check::impl_block(&block, "aggregate", &errors);
    let mut model = Aggregate::read(args, &block, &errors);
    check::aggregate(&mut model, &errors);
    let generated = match errors.into_tokens() {
        None => expand::aggregate::expand(&model),
        Some(errors) => errors,
    };
    let _ = fine;
    let block = fallback::stripped(block.clone(), &fallback::MARKS);
    emit!(#block #generated)
}

pub(crate) fn projection(args: TokenStream, item: TokenStream) -> TokenStream {
    let block: ItemImpl = match syn::parse2(item) {
        Ok(block) => block,
        Err(error) => return error.to_compile_error(),
    };
    let errors = Errors::default();
    let _fine = check::impl_block(&block, "projection", &errors);
    let mut model = Projection::read(args, &block, &errors);
    check::projection(&mut model, &errors);
    let generated = match errors.into_tokens() {
        None => expand::projection::expand(&model),
        Some(errors) => errors,
    };
    let block = fallback::stripped(block.clone(), &fallback::MARKS);
    emit!(#block #generated)
}
