"""Tables in, tables out: one file a kind of statistic."""
