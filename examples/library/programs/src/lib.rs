//! What the programs have in common: everything but the transport.

use std::error::Error;

use kombu::Connection;
use newsroom::Article;

/// Edits the articles of `articles.json` and prints what became of them.
///
/// # Errors
///
/// Those of [`newsroom::edit`].
pub async fn run(connection: Connection) -> Result<(), Box<dyn Error>> {
    let articles: Vec<Article> = serde_json::from_str(include_str!("../articles.json"))?;
    let edition = newsroom::edit(&connection, &["culture", "science", "sport"], &articles).await?;
    print!("{edition}");
    connection.close().await?;
    Ok(())
}
