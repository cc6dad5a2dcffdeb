//! The composition root of `husk serve`: only it knows every part.
