"""Where workers live and whether they are alive: threads of this process, or processes of this host."""
