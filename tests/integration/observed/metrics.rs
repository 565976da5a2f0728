//! Every metric that is declared.
