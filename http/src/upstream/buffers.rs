//! `proxy_buffers` and its neighbours: their sizes, and how they must fit one another.

use tidegate_core::conf::{ConfigError, Line, Place, Refusal, Setting, value};
use tidegate_core::inherit;

/// A size, and where it is written.
type Written = (u64, Place);

/// nginx's buffers, if nothing is said: number and size, the latter also that of the first one.
const DEFAULT: (u64, u64) = (8, 4096);

/// The settings of one block.
#[derive(Default)]
pub struct BuffersConf {
    first: Setting<Written>,
    buffers: Setting<(u64, u64, Place)>,
    busy: Setting<Written>,
    file_write: Setting<Written>,
    file: Setting<Written>,
}

inherit!(BuffersConf { first, buffers, busy, file_write, file });

impl BuffersConf {
    /// Reads `proxy_buffer_size`.
    ///
    /// # Errors
    /// In nginx's words.
    pub fn first(&mut self, line: &Line<'_>) -> Result<(), Refusal> {
        self.first.set(size(line)?)
    }

    /// Reads `proxy_buffers`.
    ///
    /// # Errors
    /// In nginx's words.
    pub fn buffers(&mut self, line: &Line<'_>) -> Result<(), Refusal> {
        let number = value::number(line.arg(0)?).filter(|number| *number > 1).ok_or("invalid value")?;
        let size = value::size(line.arg(1)?).filter(|size| *size > 0).ok_or("invalid value")?;
        self.buffers.set((number, size, line.at().clone()))
    }

    /// Reads `proxy_busy_buffers_size`.
    ///
    /// # Errors
    /// In nginx's words.
    pub fn busy(&mut self, line: &Line<'_>) -> Result<(), Refusal> {
        self.busy.set(size(line)?)
    }

    /// Reads `proxy_temp_file_write_size`.
    ///
    /// # Errors
    /// In nginx's words.
    pub fn file_write(&mut self, line: &Line<'_>) -> Result<(), Refusal> {
        self.file_write.set(size(line)?)
    }

    /// Reads `proxy_max_temp_file_size`.
    ///
    /// # Errors
    /// In nginx's words.
    pub fn file(&mut self, line: &Line<'_>) -> Result<(), Refusal> {
        self.file.set(size(line)?)
    }

    /// The size of the first buffer.
    pub fn first_size(&self) -> u64 {
        self.first.get().map_or(DEFAULT.1, |(size, _)| *size)
    }

    /// The size of all the others together.
    pub fn total(&self) -> u64 {
        let (number, size) = self.number_and_size();
        number.saturating_mul(size)
    }

    /// The size of one of them, and of the first: whichever is larger.
    pub fn largest(&self) -> u64 {
        self.first_size().max(self.number_and_size().1)
    }

    /// How much of a reply in a file is read back at a time.
    pub fn busy_size(&self) -> u64 {
        self.busy.get().map_or(self.largest().saturating_mul(2), |(busy, _)| *busy)
    }

    /// How much is written to a file at a time.
    pub fn file_write_size(&self) -> u64 {
        self.file_write.get().map_or(self.largest().saturating_mul(2), |(write, _)| *write)
    }

    /// The largest file.
    pub fn file_size(&self) -> u64 {
        self.file.get().map_or(1 << 30, |(file, _)| *file)
    }

    fn number_and_size(&self) -> (u64, u64) {
        self.buffers.get().map_or(DEFAULT, |(number, size, _)| (*number, *size))
    }

    /// Looks whether the sizes fit, also where nothing is proxied.
    ///
    /// # Errors
    /// In nginx's words, at the line that is the nearest cause.
    pub fn judge(&self) -> Result<(), ConfigError> {
        let (number, size) = self.number_and_size();
        let largest = self.largest();
        let too_small = |name: &str, or: &str| {
            format!(
                "\"{name}\" must be {or}equal to or greater than the maximum of the value of \"proxy_buffer_size\" and \
                 one of the \"proxy_buffers\", {largest}"
            )
        };
        if let Some((busy, at)) = self.busy.get()
            && *busy < largest
        {
            return Err(ConfigError::new(at, too_small("proxy_busy_buffers_size", "")));
        }
        // nginx: what is not said is twice the larger buffer.
        let busy = self.busy_size();
        let cause = self.busy.get().or(self.first.get()).map(|(_, at)| at);
        if let Some(at) = cause.or(self.buffers.get().map(|(_, _, at)| at))
            && busy > size.saturating_mul(number.saturating_sub(1))
        {
            let message = format!(
                "\"proxy_busy_buffers_size\", {busy}, must be less than the size of all \"proxy_buffers\" minus one \
                 buffer, {}",
                size.saturating_mul(number.saturating_sub(1))
            );
            return Err(ConfigError::new(at, message));
        }
        if let Some((write, at)) = self.file_write.get()
            && *write < largest
        {
            return Err(ConfigError::new(at, too_small("proxy_temp_file_write_size", "")));
        }
        if let Some((file, at)) = self.file.get()
            && (1..largest).contains(file)
        {
            let or = "equal to zero to disable temporary files usage or must be ";
            return Err(ConfigError::new(at, too_small("proxy_max_temp_file_size", or)));
        }
        Ok(())
    }
}

fn size(line: &Line<'_>) -> Result<Written, Refusal> {
    let size = value::size(line.arg(0)?).ok_or("invalid value")?;
    Ok((size, line.at().clone()))
}
