mod folds;
mod vault;
