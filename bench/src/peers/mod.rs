//! Other frameworks, each used as its own documentation shows.
