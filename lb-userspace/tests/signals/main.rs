//! Expositions of inference servers, and what each says.
//!
//! Those with a version in their name, and llama.cpp's, were recorded from such a server under load, on a CPU.
//! The others are small ones after the shape of what a server's documentation shows.

mod recognised;
