-- The tables as version 1 made them.
CREATE TABLE merge_bot_inbox ( number INTEGER NOT NULL, "key" TEXT NOT NULL, source TEXT NOT NULL, event TEXT NOT NULL, body BLOB NOT NULL, received DOUBLE NOT NULL, taken DOUBLE, finished DOUBLE, PRIMARY KEY (number), UNIQUE ("key") );
CREATE INDEX merge_bot_inbox_finished ON merge_bot_inbox (finished);
CREATE INDEX merge_bot_inbox_waiting ON merge_bot_inbox (number) WHERE finished IS NULL;
CREATE TABLE merge_bot_jobs ( id TEXT NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL, stage TEXT NOT NULL, done BIGINT DEFAULT '0' NOT NULL, total BIGINT DEFAULT '0' NOT NULL, make TEXT DEFAULT '' NOT NULL, runner TEXT DEFAULT '' NOT NULL, worker TEXT DEFAULT '' NOT NULL, host TEXT DEFAULT '' NOT NULL, requester TEXT DEFAULT '' NOT NULL, search TEXT NOT NULL, bytes BIGINT DEFAULT '0' NOT NULL, created DOUBLE NOT NULL, started DOUBLE, ended DOUBLE, newest_line INTEGER DEFAULT '0' NOT NULL, PRIMARY KEY (id) );
CREATE INDEX merge_bot_jobs_created ON merge_bot_jobs (created);
CREATE INDEX merge_bot_jobs_ended ON merge_bot_jobs (ended);
CREATE INDEX merge_bot_jobs_make ON merge_bot_jobs (make);
CREATE INDEX merge_bot_jobs_requester ON merge_bot_jobs (requester, created);
CREATE INDEX merge_bot_jobs_state ON merge_bot_jobs (state, created);
CREATE TABLE merge_bot_makes ( id TEXT NOT NULL, attempt INTEGER NOT NULL, created DOUBLE NOT NULL, ended DOUBLE, PRIMARY KEY (id) );
CREATE TABLE merge_bot_seen ( kind TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, at DOUBLE NOT NULL, PRIMARY KEY (kind, name) );
CREATE TABLE merge_bot_settings ( name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (name) );
CREATE TABLE merge_bot_workers ( executor TEXT NOT NULL, beat BIGINT NOT NULL, at DOUBLE NOT NULL, PRIMARY KEY (executor) );
CREATE TABLE merge_bot_lines ( job TEXT NOT NULL, number INTEGER NOT NULL, at DOUBLE NOT NULL, text TEXT NOT NULL, PRIMARY KEY (job, number), FOREIGN KEY(job) REFERENCES merge_bot_jobs (id) ON DELETE CASCADE );
CREATE TABLE merge_bot_orders ( job TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (job), FOREIGN KEY(job) REFERENCES merge_bot_jobs (id) ON DELETE CASCADE );
CREATE TABLE merge_bot_outcomes ( job TEXT NOT NULL, document TEXT NOT NULL, details TEXT NOT NULL, PRIMARY KEY (job), FOREIGN KEY(job) REFERENCES merge_bot_jobs (id) ON DELETE CASCADE );
