//! `guidevane decap`: its program, frame by frame, and the command with real connections through every tunnel.

mod accepted;
mod broken;
mod capture;
mod command;
mod congestion;
mod model;
mod rig;
mod strict;
