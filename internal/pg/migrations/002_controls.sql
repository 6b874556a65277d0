-- A reset or an override by hand is a row too: it stands for no request.
ALTER TABLE requests
    ALTER COLUMN gateway DROP NOT NULL,
    ALTER COLUMN verdict DROP NOT NULL;

COMMENT ON TABLE requests IS 'Every decided request once, and what was done to a key by hand (count 0): a copy of the journal, one partition a day (UTC). Rows never change.';
COMMENT ON COLUMN requests.request_id IS 'The id the request came with, or was given; that of the command, of what was done by hand.';
COMMENT ON COLUMN requests.gateway IS 'The process that published the request; null of what was done by hand.';
COMMENT ON COLUMN requests.identity IS 'Who the request counts against when a rule says no more: the user, else the API key''s hash, else the address. Who did it, of what was done by hand.';
COMMENT ON COLUMN requests.count IS 'Requests that the row stands for: a gateway folds repeated local denials into one; 0 of what was done by hand.';
COMMENT ON COLUMN requests.verdict IS 'allow or deny; null of what was done by hand.';
COMMENT ON COLUMN requests.reason IS 'Why: rule, exempt, no_rule, local (the gateway denied it itself), timeout (let through without a decision), late. Or what was done by hand: reset, override, lift; by whom is in user_id, the rest in attrs.';
