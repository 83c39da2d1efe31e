"""Records to tables, figures and summaries: collect, aggregate, render. Light: needs results/ only, no torch."""
