//! What people look at: PNG files, contact sheets, plots, the report and its page. Data in, bytes
//! out, and PNG bytes back in; writes no file and computes no figure.

mod canvas;
mod contact_sheet;
mod embed;
mod evidence;
mod lettering;
mod page;
mod page_parts;
mod plot;
mod png;
#[cfg(test)]
mod preview;
mod read_png;
mod run_report;
mod score_plot;
mod training_plot;

pub use contact_sheet::contact_sheet;
pub use evidence::{Evidence, NamedFiles};
pub use page::ReportPage;
pub use png::{PictureNotes, encode_png, picture_grid};
pub use read_png::{PictureLimits, PngError, read_png};
pub use run_report::{
    Cost, EvaluationReport, Headline, PhaseCost, RunReport, Seeds, TrainingSummary, to_json,
};
pub use score_plot::score_plot;
pub use training_plot::training_plot;

/// Why something could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A picture's bytes do not fit its size: a fault of ours.
    #[error("a picture of {width} by {height} pixels has {bytes} bytes, not width * height * 3")]
    MisshapenPicture {
        /// Pixels a row.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Bytes found.
        bytes: usize,
    },
    /// There is nothing to draw.
    #[error("there is nothing to draw: {0}")]
    Empty(&'static str),
    /// The plotting library refused.
    #[error("cannot draw the plot: {0}")]
    Plot(String),
    /// The embedded font is damaged: a fault of the build.
    #[error("the embedded font cannot be read")]
    Font,
    /// The PNG encoder refused.
    #[error("cannot encode a PNG: {0}")]
    Encode(#[from] ::png::EncodingError),
    /// A report could not be written as JSON.
    #[error("cannot write the report as JSON: {0}")]
    Json(#[from] serde_json::Error),
}
