//! The ways to launch that are measured. One more is one more line of [`WAYS`].

use std::sync::Arc;

use portcullis::{Command, Error, Resident, Template, Way};

use crate::measure::Launch;

/// A way to launch.
#[derive(Debug, Clone, Copy)]
pub struct LaunchWay {
    /// What tables call it.
    pub name: &'static str,
    /// Makes a command ready to be launched any number of times, each of which waits for its end.
    pub ready: fn(Command) -> Result<Launch, Error>,
}

/// All of them.
pub const WAYS: &[LaunchWay] = &[
    LaunchWay { name: "one shot", ready: |command| Ok(each(command, Way::Child)) },
    LaunchWay { name: "in place", ready: |command| Ok(each(command, Way::InPlace)) },
    LaunchWay { name: "template, one shot", ready: |command| template(command, Way::Child) },
    LaunchWay { name: "template, in place", ready: |command| template(command, Way::InPlace) },
    LaunchWay { name: "template, resident", ready: |command| resident(&command) },
    LaunchWay { name: "kept, resident", ready: |command| kept(&command) },
];

/// Opens what the launch needs each time.
fn each(mut command: Command, way: Way) -> Launch {
    command.way(way);
    let launch = move || command.template()?.status();
    Arc::new(move || assert!(launch().expect("a launch").success()))
}

/// Opens it once.
fn template(mut command: Command, way: Way) -> Result<Launch, Error> {
    let template = command.way(way).template()?;
    Ok(Arc::new(move || assert!(template.status().expect("a launch").success())))
}

/// Opens it once, and keeps the launcher, one for all that launch. What no message can carry is seen here.
fn resident(command: &Command) -> Result<Launch, Error> {
    let template = command.template()?;
    let resident = template.resident()?;
    by(resident, template)
}

/// The same, and has the launcher keep it.
fn kept(command: &Command) -> Result<Launch, Error> {
    let template = command.template()?;
    let resident = template.resident()?;
    let template = resident.keep(&template)?;
    by(resident, template)
}

fn by(resident: Resident, template: Template) -> Result<Launch, Error> {
    resident.status(&template)?;
    Ok(Arc::new(move || assert!(resident.status(&template).expect("a launch").success())))
}
