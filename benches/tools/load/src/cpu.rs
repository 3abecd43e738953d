//! The CPU time of a process and of what it started, as the kernel counts it.

/// Seconds of CPU.
#[derive(Default, Clone, Copy)]
pub struct Cpu {
    pub user: f64,
    pub sys: f64,
    /// Of both, what threads took that are counted apart.
    pub apart: f64,
}

impl Cpu {
    /// What a process has used so far, with its children; `apart` names threads to tell apart.
    pub fn of(pid: u32, apart: Option<&str>) -> Self {
        let mut cpu = Self::default();
        cpu.add(&pid.to_string(), apart);
        cpu
    }

    fn add(&mut self, pid: &str, apart: Option<&str>) {
        let Some((user, sys)) = times(&format!("/proc/{pid}/stat")) else { return };
        self.user += user;
        self.sys += sys;
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let read =
                |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            if apart.is_some_and(|it| it == read("comm").trim_end()) {
                let stat = task.path().join("stat");
                self.apart += times(&stat.to_string_lossy()).map_or(0.0, |it| it.0 + it.1);
            }
            for child in read("children").split_whitespace() {
                self.add(child, apart);
            }
        }
    }

    /// What was used since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            user: self.user - before.user,
            sys: self.sys - before.sys,
            apart: self.apart - before.apart,
        }
    }

    /// Without what is counted apart.
    pub fn total(self) -> f64 {
        self.user + self.sys - self.apart
    }
}

/// User and system time in a `stat` file.
fn times(file: &str) -> Option<(f64, f64)> {
    let text = std::fs::read_to_string(file).ok()?;
    // The name in parentheses may hold spaces.
    let fields: Vec<&str> = text[text.rfind(')')? + 2..].split(' ').collect();
    let seconds = |at: usize| {
        let ticks: f64 = fields.get(at)?.parse().ok()?;
        // SAFETY: reads a constant of the system.
        Some(ticks / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64)
    };
    Some((seconds(11)?, seconds(12)?))
}
