DO $$
BEGIN
    IF to_regclass('usage_events') IS NOT NULL THEN
        DROP TRIGGER IF EXISTS usage_note_events ON usage_events;
    END IF;
END
$$;
DROP FUNCTION IF EXISTS usage_note_events();
