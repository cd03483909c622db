//! What there is to know of a mechanism, on a page.

use std::fmt::Write as _;

use crate::MechanismInfo;

impl MechanismInfo {
    /// The mechanism's page of the reference, in Markdown: the same on every machine.
    ///
    /// ```
    /// let mechanisms = portcullis::mechanisms(None)?;
    /// let exec = mechanisms.iter().find(|it| it.id == "linux.exec.v1").expect("a launcher has it");
    /// assert!(exec.page().starts_with("# `linux.exec.v1`\n"));
    /// # Ok::<(), portcullis::Error>(())
    /// ```
    pub fn page(&self) -> String {
        let mut page = format!("# `{}`\n\n{}.\n\n", self.id, capitalized(&self.summary));
        self.facts(&mut page);
        let _ = write!(page, "\nIn a policy:\n\n```json\n{}\n```\n", self.example);
        self.see_it(&mut page);
        let _ = write!(page, "\n## Guide\n\n{}\n", self.guide.trim());
        page
    }

    fn facts(&self, page: &mut String) {
        let Self { phase, phase_code, rank, rank_reason, .. } = self;
        let often = match self.repeat.as_str() {
            "Layers" => "any number of times: each is one more layer",
            _ => "once",
        };
        let _ = write!(
            page,
            "- Phase {phase_code} ({phase}), rank {rank}: {rank_reason}\n\
             - Linux: {}\n\
             - In a plan: {often}\n",
            self.kernel_floor
        );
        for it in &self.requires {
            let _ = writeln!(page, "- Requires `{}`: {}", it.id, it.reason);
        }
        for it in &self.conflicts {
            let _ = writeln!(page, "- Conflicts with `{}`: {}", it.id, it.reason);
        }
        let _ = writeln!(page, "- On the wire: `{}`", self.params);
    }

    fn see_it(&self, page: &mut String) {
        let it = &self.demonstration;
        let _ = write!(page, "\n## See it\n\nWith the policy `{}`", it.policy);
        for (id, policy) in &it.with {
            let _ = write!(page, ", and `{id}` with `{policy}`");
        }
        let _ = write!(page, ", this script\n\n```sh\n{}\n```\n\nprints\n\n", it.script);
        let _ = write!(page, "```text\n{}\n```\n\nand something else without it.", it.shows);
        let everything = [&it.script, &it.policy].into_iter().chain(it.with.iter().map(|(_, p)| p));
        let everything = everything.map(String::as_str).collect::<String>();
        for (placeholder, what) in [
            (
                "@folder",
                "a folder that everybody may write to, with a `file` in it that holds `42`",
            ),
            ("@cgroup", "a fresh cgroup, whose name starts with `portcullis-demonstration`"),
        ] {
            if everything.contains(placeholder) {
                let _ = write!(page, " `{placeholder}` is {what}.");
            }
        }
        page.push('\n');
    }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
