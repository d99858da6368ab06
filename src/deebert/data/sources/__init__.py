"""Where data sets come from: each source makes a `DataSet`, and only the stage `download_glue` asks one."""
